#include "image/chunk_fill.h"

#include <catch2/catch.hpp>
#include <set>
#include <thread>

#include "image/tree_builder.h"
#include "support/bytes.h"
#include "support/memory_source.h"

namespace isr {
namespace {

using test::MemorySource;

constexpr std::uint64_t kChunks = 300;  // two pages and the root

Key secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

/// Keeps the names of what it gave, as a cache would its objects.
class Keeping : public ObjectSource {
 public:
  explicit Keeping(SourcePtr inner) : inner_(std::move(inner)) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    auto object = inner_->fetch(cid, priority, std::move(stop));
    if (object && has_room) kept.lock()->insert(cid);
    return object;
  }
  std::string describe() const override { return "keeping"; }
  std::atomic<bool> has_room{true};
  Sync<std::set<Cid>> kept;

 private:
  SourcePtr inner_;
};

struct Memory {
  Memory() {
    TreeBuilder builder(kChunks * kChunkSize, secret(),
                        [&](const SealedObject& page) { source->store(page.ref.cid, page.bytes); });
    Bytes chunk(kChunkSize);
    for (std::uint64_t i = 0; i < kChunks; ++i) {
      std::memcpy(chunk.data(), &i, sizeof i);
      chunk.back() = 1;
      const SealedObject sealed = seal_chunk(chunk, secret());
      source->store(sealed.ref.cid, sealed.bytes);
      builder.add(sealed.ref);
    }
    image = std::make_shared<Image>("memory", builder.finish(), reader, nullptr);
  }
  FillPlan plan() {
    FillPlan plan;
    plan.whole = image;
    plan.is_here = [this](const Cid& cid) { return keeping->kept.lock()->contains(cid); };
    plan.pin = [this](std::span<const Cid> cids) {
      CHECK(keeping->kept.lock()->size() < cids.size());  // before they are counted
      pinned.insert(cids.begin(), cids.end());
    };
    return plan;
  }
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("memory");
  std::shared_ptr<Keeping> keeping = std::make_shared<Keeping>(source);
  std::shared_ptr<ChunkReader> reader = std::make_shared<ChunkReader>(keeping, ReaderOptions{});
  std::shared_ptr<Image> image;
  std::set<Cid> pinned;
};

void wait_for(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::yield();
}

}  // namespace

TEST_CASE("all of memory is pinned, pages too, before it is said to be here", "[image]") {
  Memory memory;
  ChunkFill fill(*memory.reader, memory.plan());
  fill.start();
  wait_for([&] { return fill.progress().complete_since.has_value(); });
  CHECK(fill.progress().whole_here == kChunks);
  CHECK(memory.pinned.size() == kChunks + 3);
  CHECK((memory.pinned == *memory.keeping->kept.lock()));
}

TEST_CASE("memory that is gone again is not said to be here, and is fetched again", "[image]") {
  Memory memory;
  ChunkFill fill(*memory.reader, memory.plan());
  fill.start();
  wait_for([&] { return fill.progress().complete_since.has_value(); });
  CHECK(fill.recheck().complete_since);
  memory.source->hold();
  memory.keeping->kept.lock()->clear();
  CHECK_FALSE(fill.recheck().complete_since);
  CHECK(fill.recheck().whole_here < kChunks);
  memory.source->release();
  wait_for([&] { return fill.recheck().complete_since.has_value(); });
  CHECK(memory.keeping->kept.lock()->size() == kChunks + 3);
}

TEST_CASE("memory for which the cache has no room is not said to be here", "[image]") {
  Memory memory;
  memory.keeping->has_room = false;
  ChunkFill fill(*memory.reader, memory.plan());
  fill.start();
  wait_for([&] { return memory.source->fetches() >= kChunks + 3 && fill.progress().whole_here == 0; });
  CHECK_FALSE(fill.recheck().complete_since);
}

}  // namespace isr
