// Chunks that a guest discarded, where the tree cannot be read to make them zero there.

#include <catch2/catch.hpp>

#include "image/image_bench.h"

namespace isr {
namespace {

/// Every second chunk becomes zero.
class SecondChunks : public FrozenChanges {
 public:
  explicit SecondChunks(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) dirty_.zeros.push_back({2 * i, 1});
  }
  DirtyChunks frozen_chunks() const override { return dirty_; }
  std::vector<Extent> read_frozen(std::uint64_t, MutableBytes) override { throw Error(ErrorKind::kBug, "no bytes"); }
  std::optional<ChunkRef> frozen_replaced(std::uint64_t) const override { return std::nullopt; }
  bool frozen_has_bytes(std::uint64_t) const override { return false; }

 private:
  DirtyChunks dirty_;
};

/// Of something that no source has.
ChunkRef absent() {
  ChunkRef ref;
  ref.cid.value.fill(7);
  ref.length = 1000;
  return ref;
}

}  // namespace

TEST_CASE("zeros become several patches when one patch has no room for all of them", "[image]") {
  constexpr std::size_t kRuns = kMaxPatchRuns + 1;
  const TempDirectory temp;
  const PatchedTree base(TreeRoot{2 * kRuns * kChunkSize, absent()}, {{1000, absent()}});
  test::ImageBench bench(temp.path(), base);
  SecondChunks frozen(kRuns);
  PatchedTree sealed = seal_frozen(bench.context(), frozen, base).content;
  CHECK((sealed.tree == base.tree));
  REQUIRE(sealed.patches.size() > 2);
  CHECK((sealed.patches.back() == base.patches[0]));
  sealed.patches.pop_back();
  const BaseContent content(sealed);
  const std::vector<PatchIndex::Run>& runs = content.index(*bench.reader, Priority::kGuest).runs();
  REQUIRE(runs.size() == kRuns);
  for (std::size_t i = 0; i < kRuns; ++i) {
    if (runs[i].offset == 2 * i * kChunkSize && runs[i].length == kChunkSize &&
        runs[i].patch == PatchIndex::Run::kZeros) {
      continue;
    }
    FAIL("run " << i << " is another one");
  }
}

}  // namespace isr
