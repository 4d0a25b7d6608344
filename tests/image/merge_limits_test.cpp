// Patches of which one could not hold what several say together.

#include <catch2/catch.hpp>

#include "image/image_bench.h"
#include "image/merge_patches.h"
#include "image/patch_writer.h"

namespace isr {
namespace {

constexpr std::size_t kClearedByEach = kMaxClearedRuns / 6;
constexpr std::size_t kManyRuns = kMaxPatchRuns / 2;  // with more, a patch is not merged
constexpr std::uint8_t kOldest = 1;

/// An image of zeros with one old patch of many runs, in chunks 0, 1 and 3, and `newer` ones. Each of these clears many
/// chunks of its own, none of them odd, and writes one byte into chunk 1. One of them, `clears_first`, also clears
/// chunk 1.
struct ClearingBench {
  ClearingBench(const fs::path& where, std::size_t newer, std::size_t clears_first)
      : content(TreeRoot{2 * newer * kClearedByEach * kChunkSize, {}}), bench(where, content) {
    PatchWriter oldest = writer();
    for (std::size_t run = 0; run < kManyRuns; ++run) oldest.add(2 * run, ByteView(&kOldest, 1));
    for (std::size_t run = 0; run < 1000; ++run) oldest.add(3 * kChunkSize + 2 * run, ByteView(&kOldest, 1));
    content.patches = {oldest.finish()};
    for (std::size_t i = 0; i < newer; ++i) {
      PatchWriter patch = writer();
      if (i == clears_first) patch.clear({1, 1});
      for (std::size_t run = 1; run < kClearedByEach; ++run) patch.clear({2 * (i * kClearedByEach + run), 1});
      patch.add(kChunkSize + i, as_bytes("x"));
      content.patches.insert(content.patches.begin(), patch.finish());
    }
  }

  PatchWriter writer() {
    return PatchWriter(test::domain_secret(), 2,
                       [&](const SealedObject& object) { bench.settled->put(object.ref.cid, object.bytes); });
  }
  void bound() { bound_patches(bench.context(), content, made, objects); }
  Bytes read(std::uint64_t offset, std::size_t length) {
    Bytes bytes(length);
    Image("disk", content, bench.reader, nullptr).read(offset, bytes);
    return bytes;
  }

  PatchedTree content;
  test::ImageBench bench;
  std::vector<NewPatch> made;
  std::vector<ClearRef> objects;
};

}  // namespace

TEST_CASE("patches stay as they are when they clear more runs of chunks than one patch can", "[image]") {
  const TempDirectory temp;
  ClearingBench bench(temp.path(), 9, 20);
  const PatchedTree before = bench.content;
  bench.bound();
  CHECK((bench.content == before));
  CHECK(bench.made.empty());
  CHECK(bench.objects.empty());
}

TEST_CASE("the tree takes the oldest patches without what a newer one clears when many cannot be merged", "[image]") {
  constexpr std::size_t kMany = kMaxPatches / 2;
  const TempDirectory temp;
  ClearingBench bench(temp.path(), kMany, 20);
  const std::vector<TreeRoot> before = bench.content.patches;
  const Bytes start = bench.read(0, 4 * kChunkSize);
  REQUIRE(start[6] == kOldest);
  REQUIRE(start[3 * kChunkSize] == kOldest);
  REQUIRE(start[kChunkSize + 100] == 0);  // cleared: the tree has zeros
  bench.bound();
  CHECK(bench.content.patches == std::vector<TreeRoot>(before.begin(), before.end() - 8));
  CHECK_FALSE(bench.objects.empty());
  CHECK((bench.read(0, 4 * kChunkSize) == start));
}

}  // namespace isr
