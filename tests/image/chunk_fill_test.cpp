#include "image/chunk_fill.h"

#include <catch2/catch.hpp>
#include <set>
#include <thread>

#include "image/tree_builder.h"
#include "support/bytes.h"
#include "support/keeping_source.h"
#include "support/memory_source.h"

namespace isr {
namespace {

using test::KeepingSource;
using test::MemorySource;

constexpr std::uint64_t kChunks = 300;  // two pages and the root

Key secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

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
    plan.is_here = [this](const Cid& cid) { return keeping->has(cid); };
    plan.pin = [this](std::span<const Cid> cids) {
      CHECK(keeping->kept.lock()->size() < cids.size());  // before they are counted
      pinned.insert(cids.begin(), cids.end());
    };
    return plan;
  }
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("memory");
  std::shared_ptr<KeepingSource> keeping = std::make_shared<KeepingSource>(source);
  std::shared_ptr<ChunkReader> reader = std::make_shared<ChunkReader>(keeping, ReaderOptions{});
  std::shared_ptr<Image> image;
  std::set<Cid> pinned;
};

void wait_for(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::yield();
}

}  // namespace

TEST_CASE("all of memory, including pages, is pinned before it is reported as complete", "[image]") {
  Memory memory;
  ChunkFill fill(*memory.reader, memory.plan());
  fill.start();
  wait_for([&] { return fill.progress().complete_since.has_value(); });
  CHECK(fill.progress().whole_here == kChunks);
  CHECK(memory.pinned.size() == kChunks + 3);
  CHECK((memory.pinned == *memory.keeping->kept.lock()));
}

TEST_CASE("memory that is gone again is not reported as complete, and is fetched again", "[image]") {
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

TEST_CASE("memory for which the cache has no room is not reported as complete", "[image]") {
  Memory memory;
  memory.keeping->has_room = false;
  ChunkFill fill(*memory.reader, memory.plan());
  fill.start();
  wait_for([&] { return memory.source->fetches() >= kChunks + 3 && fill.progress().whole_here == 0; });
  CHECK_FALSE(fill.recheck().complete_since);
}

}  // namespace isr
