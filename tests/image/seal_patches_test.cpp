// What sealing puts into patches, what it does without the objects of the base, and how the number of patches stays
// small.

#include <catch2/catch.hpp>

#include "image/image_bench.h"
#include "image/seal_objects.h"
#include "support/memory_source.h"

namespace isr {
namespace {

using test::ImageBench;

constexpr std::uint64_t kChunks = 600;  // more than one page of references
constexpr std::uint64_t kSize = kChunks * kChunkSize;

/// An image with a published base of random bytes, a model of it, and a reader that finds no object at all.
struct PatchBench : ImageBench {
  explicit PatchBench(const fs::path& where) : ImageBench(where, TreeRoot{kSize, {}}), model(kSize) {
    write(0, 20 * kChunkSize);
    write(300 * kChunkSize, 4 * kChunkSize);
    publish();
  }

  void write(std::uint64_t offset, std::size_t length) {
    const Bytes data = test::random_bytes(length, ++seed);
    image->write(offset, data);
    std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  void discard(std::uint64_t offset, std::uint64_t length) {
    image->discard(offset, length);
    const auto begin = model.begin() + static_cast<std::ptrdiff_t>(offset);
    std::fill(begin, begin + static_cast<std::ptrdiff_t>(length), std::uint8_t{0});
  }

  /// A publish of a host that has no object of the base, and gets one only by `fetching`.
  SealedImage publish_without_base(std::shared_ptr<ChunkReader> fetching = nullptr) {
    SealContext lacking = context();
    lacking.reader = std::make_shared<ChunkReader>(open_stack({}, none), ReaderOptions{0, 1, 1});
    lacking.fetching = std::move(fetching);
    const std::uint64_t boundary = overlay->freeze();
    SealedImage sealed = seal_frozen(lacking, *overlay, base);
    overlay->absorb_frozen(sealed.chunks, boundary);
    adopt(sealed, boundary);
    return sealed;
  }

  void adopt(const SealedImage& sealed, std::uint64_t boundary) {
    base = sealed.content;
    void_below = boundary;
    image->adopt(base, [&] { overlay->forget_below(boundary); });
  }

  bool is_right() {
    Bytes bytes(kSize);
    image->read(0, bytes);
    Image published("published", base, reader, nullptr);
    Bytes again(kSize);
    published.read(0, again);
    return bytes == model && again == model;
  }

  std::uint64_t seed = 0;
  Bytes model;
  SourceStats none;
};

std::uint64_t length_of(const std::vector<ClearRef>& objects) {
  std::uint64_t sum = 0;
  for (const ClearRef& object : objects) sum += object.length;
  return sum;
}

}  // namespace

TEST_CASE("a publish sends little more than what changed when small changes are scattered", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  const TreeRoot tree = bench.base.tree;
  std::mt19937_64 random(3);
  std::uint64_t changed = 0;
  for (int i = 0; i < 200; ++i, changed += 4096) bench.write(random() % (kSize / 4096) * 4096, 4096);
  const std::uint64_t boundary = bench.overlay->freeze();
  const SealedImage sealed = seal_frozen(bench.context(), *bench.overlay, bench.base);
  CHECK(sealed.content.tree == tree);
  REQUIRE(sealed.content.patches.size() == 1);
  CHECK(sealed.chunks.empty());
  CHECK(length_of(sealed.new_objects) < changed * 13 / 10);
  bench.adopt(sealed, boundary);
  CHECK(bench.is_right());
}

TEST_CASE("a chunk is sealed whole and clears its patches when much of it changed", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  bench.write(3 * kChunkSize + 4096, 4096);
  bench.write(5 * kChunkSize + 4096, 4096);
  bench.publish();
  REQUIRE(bench.base.patches.size() == 1);
  const PatchedTree before = bench.base;
  bench.write(3 * kChunkSize, kMuchOfAChunk);
  bench.publish();
  CHECK_FALSE(bench.base.tree == before.tree);
  REQUIRE(bench.base.patches.size() == 2);
  CHECK(bench.is_right());
  const BaseContent content(bench.base);
  CHECK_FALSE(content.index(*bench.reader, Priority::kGuest).touches(3 * kChunkSize, kChunkSize));
  CHECK(content.index(*bench.reader, Priority::kGuest).touches(5 * kChunkSize, kChunkSize));
}

TEST_CASE("an image has no patch and no new tree when a guest writes what is there", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  const PatchedTree before = bench.base;
  bench.image->write(7 * kChunkSize + 512, ByteView(bench.model).subspan(7 * kChunkSize + 512, 9000));
  bench.publish();
  CHECK(bench.base == before);
  CHECK(bench.is_right());
}

TEST_CASE("a chunk that a guest wrote back keeps those bytes when a patch came between", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  const Bytes first(bench.model.begin(), bench.model.begin() + kChunkSize);
  bench.write(4096, 4096);
  bench.publish();
  bench.image->write(0, first);
  std::copy(first.begin(), first.end(), bench.model.begin());
  bench.publish();
  CHECK(bench.is_right());
}

TEST_CASE("a publish needs no object of the base when the host has none", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  bench.write(2 * kChunkSize + 100, 700);
  bench.write(9 * kChunkSize - 5, 2 * kChunkSize);
  bench.image->discard(300 * kChunkSize, 290 * kChunkSize);
  std::fill_n(bench.model.begin() + static_cast<std::ptrdiff_t>(300 * kChunkSize), 290 * kChunkSize, std::uint8_t{0});
  const TreeRoot tree = bench.base.tree;
  for (int i = 0; i < 3; ++i) {
    const SealedImage sealed = bench.publish_without_base();
    CHECK(sealed.content.tree == tree);
    CHECK(bench.is_right());
    bench.write(static_cast<std::uint64_t>(i) * 3 * kChunkSize + 77, 50'000);
  }
  bench.publish();
  CHECK(bench.is_right());
}

TEST_CASE("a sealed chunk stays whole when the host has the tree but not the patches", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  bench.write(4096, 4096);
  bench.publish();
  const TreeRoot patch = bench.base.patches.at(0);
  const Bytes kept = bench.settled->fetch(patch.root.cid, Priority::kGuest, {}).value();
  const std::vector<Cid> gone{patch.root.cid};
  bench.settled->remove(gone);
  bench.write(0, kChunkSize);
  bench.write(kChunkSize + 4096, 4096);
  bench.open();
  bench.publish();
  CHECK_FALSE(bench.base.patches.at(0) == patch);
  bench.settled->put(patch.root.cid, kept);
  bench.settled->sync();
  bench.open();
  CHECK(bench.is_right());
  Image tree("tree", bench.base.tree, bench.reader, nullptr);
  Bytes chunk(kChunkSize);
  tree.read(0, chunk);
  CHECK(std::equal(chunk.begin(), chunk.end(), bench.model.begin()));
}

TEST_CASE("an image has few patches when many versions changed a little", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  std::mt19937_64 random(4);
  std::uint64_t sent = 0;
  for (int version = 0; version < 60; ++version) {
    for (int i = 0; i < 5; ++i) bench.write(random() % (kSize - 5000), 1 + random() % 5000);
    if (version % 9 == 0) bench.discard(64 * kChunkSize, 4096);
    const std::uint64_t boundary = bench.overlay->freeze();
    const SealedImage sealed = seal_frozen(bench.context(), *bench.overlay, bench.base);
    bench.overlay->absorb_frozen(sealed.chunks, boundary);
    bench.adopt(sealed, boundary);
    sent += length_of(sealed.new_objects);
    CHECK(bench.base.patches.size() <= 8);
  }
  CHECK(bench.is_right());
  CHECK(sent < 60 * 5 * 5000 * 3);  // each byte is sent again a few times at most
}

TEST_CASE("a large patch is left alone when small ones are put together", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  for (std::uint64_t chunk = 0; chunk < 500; ++chunk) bench.write(chunk * kChunkSize, 32768);
  bench.publish();
  REQUIRE(bench.base.patches.size() == 1);
  const TreeRoot large = bench.base.patches[0];
  for (std::uint64_t version = 0; version < 30; ++version) {
    bench.write(version * 40'000, 512);
    bench.publish();
    CHECK(bench.base.patches.size() <= 8);
    CHECK(bench.base.patches.back() == large);
  }
  CHECK(bench.is_right());
}

TEST_CASE("the tree takes the oldest patches when there are more than a version may have", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  for (std::uint64_t version = 0; version < kMaxPatches; ++version) {
    bench.write(version * 30'000, 100);
    bench.publish_without_base();
  }
  REQUIRE(bench.base.patches.size() == kMaxPatches);
  const std::vector<TreeRoot> before = bench.base.patches;
  bench.write(17, 100);
  bench.publish_without_base(bench.reader);
  REQUIRE(bench.base.patches.size() == kMaxPatches + 1 - 8);
  CHECK(std::equal(bench.base.patches.begin() + 1, bench.base.patches.end(), before.begin()));
  CHECK(bench.is_right());
}

TEST_CASE("the tree keeps the newer bytes of a chunk when it takes patches that a newer one has cleared", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  bench.write(5000, 100);
  bench.write(kChunkSize + 5000, 100);
  bench.publish();
  bench.write(0, kChunkSize);  // sealed whole; clears the patch below
  bench.publish();
  bench.write(6000, 100);
  bench.publish();
  REQUIRE(bench.base.patches.size() == 3);
  for (std::uint64_t version = 0; version < kMaxPatches - 3; ++version) {
    bench.write(10 * kChunkSize + version * 200, 100);
    bench.publish_without_base();
  }
  REQUIRE(bench.base.patches.size() == kMaxPatches);
  SECTION("because it must") {
    bench.write(17, 100);
    bench.publish_without_base(bench.reader);
    CHECK(bench.base.patches.size() == kMaxPatches + 1 - 8);
  }
  SECTION("because all is on this host") {
    bench.write(17, 100);
    bench.publish();
    CHECK(bench.base.patches.size() <= 8);
  }
  CHECK(bench.is_right());
}

TEST_CASE("the tree takes zeros and parts of chunks from patches but no chunk that a newer one has cleared",
          "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  bench.discard(kChunkSize + 4096, 7 * kChunkSize);
  bench.discard(550 * kChunkSize, 50 * kChunkSize);
  bench.write(301 * kChunkSize - 50, 100);
  bench.publish_without_base();
  bench.write(4 * kChunkSize, kChunkSize);
  bench.publish();
  for (std::uint64_t version = 0; version < kMaxPatches - 2; ++version) {
    bench.write(10 * kChunkSize + version * 200, 100);
    bench.publish_without_base();
  }
  REQUIRE(bench.base.patches.size() == kMaxPatches);
  bench.write(17, 100);
  bench.publish_without_base(bench.reader);
  CHECK(bench.base.patches.size() == kMaxPatches + 1 - 8);
  CHECK(bench.is_right());
  Image tree("tree", bench.base.tree, bench.reader, nullptr);
  Bytes taken(kChunkSize + 4096);
  tree.read(2 * kChunkSize, taken);
  CHECK(is_zero(taken));
  tree.read(301 * kChunkSize - 50, MutableBytes(taken).first(100));
  CHECK(std::equal(taken.begin(), taken.begin() + 100, bench.model.begin() + 301 * kChunkSize - 50));
}

TEST_CASE("an image that may have no patches gets none when its base must be fetched", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  bench.write(5000, 100);
  SealContext context = bench.context();
  context.reader = std::make_shared<ChunkReader>(open_stack({}, bench.none), ReaderOptions{0, 1, 1});
  context.may_patch = false;
  const std::uint64_t boundary = bench.overlay->freeze();
  CHECK_THROWS_AS(seal_frozen(context, *bench.overlay, bench.base), Error);
  context.fetching = bench.reader;
  const SealedImage sealed = seal_frozen(context, *bench.overlay, bench.base);
  CHECK(sealed.content.patches.empty());
  bench.adopt(sealed, boundary);
  CHECK(bench.is_right());
}

TEST_CASE("a publish succeeds without a fetch when many patches are not on this host", "[image]") {
  const TempDirectory temp;
  PatchBench bench(temp.path());
  const auto repository = std::make_shared<test::MemorySource>("repository");
  const auto fetching = std::make_shared<ChunkReader>(repository, ReaderOptions{0, 1, 1});
  for (std::uint64_t version = 0; version < kMaxPatches; ++version) {
    bench.write(version * 30'000, 100);
    bench.publish_without_base(fetching);
    CHECK(bench.base.patches.size() == version + 1);
  }
  CHECK(repository->fetches() == 0);
  CHECK(bench.is_right());
}

}  // namespace isr
