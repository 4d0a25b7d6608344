#include "image/known_chunks.h"

#include <catch2/catch.hpp>

#include "image/tree_builder.h"
#include "support/bytes.h"
#include "support/memory_source.h"

using namespace isr;

namespace {

Key secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

/// Trees of chunks that are told apart by a seed.
struct Trees {
  std::shared_ptr<test::MemorySource> source = std::make_shared<test::MemorySource>("memory");
  ChunkReader reader{source, {.decoded_pages = 4}};
  std::vector<Cid> pages;  // in the order in which they were made

  static SealedObject chunk(std::uint64_t seed) { return seal_chunk(test::random_bytes(kChunkSize, seed), secret()); }
  static Sha256 digest(std::uint64_t seed) { return sha256(test::random_bytes(kChunkSize, seed)); }

  TreeRoot tree(std::uint64_t chunks, std::uint64_t first_seed) {
    TreeBuilder builder(chunks * kChunkSize, secret(), [&](const SealedObject& page) {
      source->store(page.ref.cid, page.bytes);
      pages.push_back(page.ref.cid);
    });
    for (std::uint64_t i = 0; i < chunks; ++i) builder.add(chunk(first_seed + i).ref);
    return builder.finish();
  }
};

}  // namespace

TEST_CASE("content of any tree that was added is found with its reference", "[image]") {
  Trees trees;
  KnownChunks known(trees.reader);
  known.add(trees.tree(3, 1));
  known.add(trees.tree(257, 1000));
  CHECK(known.size() == 260);
  for (const std::uint64_t seed : {1U, 3U, 1000U, 1255U, 1256U}) {
    const auto found = known.find(Trees::digest(seed));
    REQUIRE(found);
    CHECK((*found == Trees::chunk(seed).ref));
  }
  CHECK_FALSE(known.find(Trees::digest(4)));
  CHECK_FALSE(known.find({}));
}

TEST_CASE("chunks below a damaged page are unknown, and the others are known", "[image]") {
  Trees trees;
  const TreeRoot tree = trees.tree(512, 1);
  trees.source->store(trees.pages.front(), Bytes(9));
  KnownChunks known(trees.reader);
  known.add(tree);
  CHECK(known.size() == 256);
  CHECK_FALSE(known.find(Trees::digest(1)));
  CHECK(known.find(Trees::digest(300)));
  trees.source->store(trees.pages.back(), Bytes(9));  // the top
  ChunkReader fresh(trees.source, {});
  KnownChunks nothing(fresh);
  nothing.add(tree);
  CHECK(nothing.size() == 0);
}

TEST_CASE("no more chunks are known than the limit allows", "[image]") {
  Trees trees;
  KnownChunks known(trees.reader, 10);
  known.add(trees.tree(16, 1));
  known.add(trees.tree(16, 100));
  CHECK(known.size() == 10);
  CHECK(known.find(Trees::digest(10)));
  CHECK_FALSE(known.find(Trees::digest(11)));
}
