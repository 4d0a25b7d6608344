// Images against a plain vector of bytes: random reads, writes, discards,
// snapshots, settling and restarts must never show another byte.
#include "image/image.h"

#include <catch2/catch.hpp>
#include <random>

#include "image/model_bench.h"
#include "support/error_kind.h"
#include "support/memory_overlay.h"

namespace isr {

namespace {

using Bench = test::ModelBench;

constexpr std::uint64_t kSize = 5 * kChunkSize + 12288 + 512;

Key secret() { return test::domain_secret(); }

}  // namespace

TEST_CASE("a writable image reads like a plain file through writes, discards, snapshots and restarts", "[image]") {
  Bench bench(kSize);
  const unsigned seed = GENERATE(1U, 2U, 3U);
  std::mt19937 rng(seed);
  const auto below = [&](std::uint64_t limit) {
    return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(rng);
  };
  for (int step = 0; step < 400; ++step) {
    const std::uint64_t offset = below(kSize);
    const std::uint64_t longest = below(4) == 0 ? 300'000 : 6'000;
    const std::uint64_t length = std::min(1 + below(longest), kSize - offset);
    switch (below(12)) {
      case 0:
        bench.image->discard(offset, length);
        std::fill_n(bench.model.begin() + static_cast<std::ptrdiff_t>(offset), length, std::uint8_t{0});
        break;
      case 1: {
        Bytes out(length);
        REQUIRE(bench.image->read(offset, out) == length);
        REQUIRE(std::equal(out.begin(), out.end(), bench.model.begin() + static_cast<std::ptrdiff_t>(offset)));
        break;
      }
      case 2:
        if (below(6) == 0) bench.publish();
        break;
      case 3:
        if (below(6) == 0) bench.open();
        break;
      case 4:
        if (below(6) == 0) {
          bench.journal->roll();
          bench.settle_to(0);
        }
        break;
      case 5:
        if (below(6) == 0) {
          bench.overlay->freeze();
          bench.image->write(offset, Bytes(length, 0x5a));
          std::fill_n(bench.model.begin() + static_cast<std::ptrdiff_t>(offset), length, std::uint8_t{0x5a});
          bench.check();
          bench.overlay->thaw();
        }
        break;
      default: {
        const Bytes data = test::random_bytes(length, rng());
        bench.image->write(offset, data);
        std::copy(data.begin(), data.end(), bench.model.begin() + static_cast<std::ptrdiff_t>(offset));
      }
    }
    if (step % 40 == 0) bench.check();
  }
  bench.check();
  bench.publish();
  bench.check();
  bench.open();
  bench.check();
}

TEST_CASE("a partial write fetches nothing", "[image]") {
  Bench bench(kSize);
  bench.image->write(0, test::random_bytes(kChunkSize, 9));
  bench.publish();
  const auto fetched = bench.stats.tier("settled").hits.load();
  bench.image->write(100, test::random_bytes(512, 10));
  bench.image->write(kChunkSize - 256, test::random_bytes(512, 10));
  CHECK(bench.stats.tier("settled").hits.load() == fetched);
}

TEST_CASE("settling bounds the journal by the changed data, not by the amount written", "[image]") {
  Bench bench(8 * kChunkSize);
  for (int round = 0; round < 20; ++round) {
    const Bytes data = test::random_bytes(8 * kChunkSize, static_cast<std::uint64_t>(round));
    bench.image->write(0, data);
    bench.model = data;
    bench.journal->roll();
  }
  bench.settle_to(4096);
  CHECK(bench.journal->size_bytes() < 8192);
  bench.check();
  bench.open();
  bench.check();
}

TEST_CASE("writing the same bytes again changes no reference", "[image]") {
  Bench bench(kSize);
  const Bytes data = test::random_bytes(3 * kChunkSize, 11);
  bench.image->write(0, data);
  bench.publish();
  const PatchedTree before = bench.base;
  bench.image->write(1000, ByteView(data).subspan(1000, 200'000));
  bench.publish();
  CHECK(bench.base == before);
}

TEST_CASE("a scratch layer over a changed disk shows the changes and leaves them as they are", "[image]") {
  Bench bench(kSize);
  const Bytes data = test::random_bytes(200'000, 5);
  bench.image->write(3000, data);
  std::copy(data.begin(), data.end(), bench.model.begin() + 3000);
  Image copy("disk", bench.base, bench.reader, make_scratch_overlay(bench.path(), kSize, bench.overlay));
  Bytes all(kSize);
  REQUIRE(copy.read(0, all) == kSize);
  CHECK((all == bench.model));
  copy.write(8192, Bytes(4096, 0x77));
  copy.discard(16384, 8192);
  Bytes seen(4096);
  copy.read(8192, seen);
  CHECK((seen == Bytes(4096, 0x77)));
  copy.read(16384, seen);
  CHECK(is_zero(seen));
  bench.check();
}

TEST_CASE("a tree built in order equals one made by updates", "[image]") {
  Bench bench(700 * kChunkSize);
  std::map<std::uint64_t, ChunkRef> changes;
  std::vector<ChunkRef> refs(700);
  for (const std::uint64_t chunk : {0ULL, 5ULL, 255ULL, 256ULL, 600ULL, 699ULL}) {
    const SealedObject sealed = seal_chunk(test::random_bytes(kChunkSize, chunk), secret());
    bench.settled->put(sealed.ref.cid, sealed.bytes);
    refs[chunk] = sealed.ref;
    changes[chunk] = sealed.ref;
  }
  const auto emit = [&](const SealedObject& page) { bench.settled->put(page.ref.cid, page.bytes); };
  TreeBuilder builder(700 * kChunkSize, secret(), emit);
  builder.add(refs[0]);
  for (std::uint64_t chunk = 1; chunk < 700;) {
    std::uint64_t zeros = 0;
    while (chunk + zeros < 700 && refs[chunk + zeros].is_zero()) ++zeros;
    if (zeros > 0) {
      builder.add_zeros(zeros);
    } else {
      builder.add(refs[chunk]);
    }
    chunk += std::max<std::uint64_t>(zeros, 1);
  }
  const TreeRoot built = builder.finish();
  const TreeRoot updated = update_tree(*bench.reader, {700 * kChunkSize, {}}, changes, secret(), emit);
  CHECK(built.root == updated.root);
  std::map<std::uint64_t, ChunkRef> found;
  for_each_chunk(*bench.reader, built, [&](std::uint64_t chunk, const ChunkRef& ref) { found[chunk] = ref; });
  CHECK(found == changes);
  CHECK(find_chunk(*bench.reader, built, 600) == refs[600]);
  CHECK(find_chunk(*bench.reader, built, 601).is_zero());

  SECTION("and changes that zero everything give the empty tree") {
    for (auto& [chunk, ref] : changes) ref = {};
    CHECK(update_tree(*bench.reader, built, changes, secret(), emit).root.is_zero());
  }
}

TEST_CASE("a 1 TiB image of zeros is one reference", "[image]") {
  TreeBuilder builder(1ULL << 40U, secret(), [](const SealedObject&) { FAIL("nothing is stored"); });
  builder.add_zeros(chunk_count(1ULL << 40U));
  CHECK(builder.finish().root.is_zero());
}

TEST_CASE("an image shows the published tree when the overlay is told to forget it", "[image]") {
  Bench bench(kSize);
  const Bytes written = test::random_bytes(kChunkSize, 21);
  bench.image->write(0, written);
  const std::uint64_t boundary = bench.overlay->freeze();
  const SealedImage sealed = seal_frozen(bench.context(), *bench.overlay, bench.base);
  bench.overlay->absorb_frozen(sealed.chunks, boundary);
  int forgotten = 0;
  bench.image->adopt(sealed.content, [&] {
    CHECK((bench.image->base() == sealed.content));
    bench.overlay->forget_below(boundary);
    ++forgotten;
  });
  CHECK(forgotten == 1);
  CHECK_FALSE(bench.overlay->is_dirty());
  Bytes out(kChunkSize);
  bench.image->read(0, out);
  CHECK((out == written));
}

TEST_CASE("a missing object is an error that names it, never zeros", "[image]") {
  Bench bench(kSize);
  bench.image->write(0, test::random_bytes(kChunkSize, 13));
  bench.publish();
  const auto cids = bench.settled->all();
  bench.settled->remove(cids);
  bench.reader = nullptr;
  const auto reader =
      std::make_shared<ChunkReader>(open_stack({settled_tier(bench.settled)}, bench.stats), ReaderOptions{});
  Image image("disk", bench.base, reader, nullptr);
  Bytes out(16);
  try {
    image.read(0, out);
    FAIL("read something");
  } catch (const Error& error) {
    CHECK((error.kind() == ErrorKind::kCorrupt || error.kind() == ErrorKind::kOffline));
    CHECK(std::string(error.what()).find(to_hex(bench.base.tree.root.cid.view()).substr(0, 12)) != std::string::npos);
  }
}

TEST_CASE("a write on a full disk succeeds once room was made, and fails when there is none", "[image]") {
  class FullOverlay : public test::MemoryOverlay {
   public:
    void write(std::uint64_t offset, ByteView data) override {
      if (full > 0 && full-- > 0) throw NoSpaceError("no space");
      MemoryOverlay::write(offset, data);
    }
    int full = 0;
  };
  const TempDirectory temp;
  const test::ImageBench bench(temp.path(), TreeRoot{kSize, {}});
  const auto overlay = std::make_shared<FullOverlay>();
  Image image("disk", TreeRoot{kSize, {}}, bench.reader, overlay);
  std::uint64_t room = 1;
  int asked = 0;
  image.set_make_room([&](std::uint64_t) {
    ++asked;
    return room;
  });
  const Bytes data = test::random_bytes(10'000, 1);
  Bytes read(data.size());
  overlay->full = 2;
  image.write(512, data);
  CHECK(asked == 2);
  image.read(512, read);
  CHECK((read == data));
  overlay->full = 1;
  room = 0;
  CHECK((test::kind_thrown([&] { image.write(0, data); }) == ErrorKind::kIo));
  CHECK(asked == 3);
  image.write(0, data);
}

}  // namespace isr
