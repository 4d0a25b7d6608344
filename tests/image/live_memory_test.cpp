// Guest memory between its mount, which is told what the guest gives back, and copies of what QEMU has.

#include "image/live_memory.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "base/file.h"
#include "image/image.h"
#include "support/bytes.h"

namespace isr {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSize = 4 * kChunkSize;

struct Bench : TempDirectory {
  Bytes read(std::uint64_t page) const {
    Bytes bytes(kPage, 0xee);
    if (!scratch->read(page * kPage, bytes).empty()) return {};
    return bytes;
  }
  std::vector<Extent> copy(std::uint64_t page, ByteView bytes) { return live.copy(page * kPage, bytes); }
  void give_back(std::uint64_t page, std::uint64_t count) { live.zero(page * kPage, count * kPage); }

  std::shared_ptr<ScratchOverlay> scratch = make_scratch_overlay(path(), kSize, nullptr);
  LiveMemory live{scratch, kSize};
};

Extent pages(std::uint64_t first, std::uint64_t count) { return {first * kPage, count * kPage}; }

}  // namespace

TEST_CASE("a copy skips the holes that were punched since it began", "[image]") {
  Bench bench;
  const Bytes zeros(kPage);
  const Bytes bytes = test::random_bytes(40 * kPage, 1);
  const auto page_of = [&](std::uint64_t page) {
    return Bytes(bytes.begin() + page * kPage, bytes.begin() + (page + 1) * kPage);
  };
  bench.give_back(3, 1);  // before
  bench.live.begin_copy();
  bench.give_back(10, 2);
  bench.give_back(14, 1);
  bench.give_back(12, 2);  // between the two
  bench.give_back(39, 5);
  const auto left_out = bench.copy(0, bytes);
  CHECK((left_out == std::vector<Extent>{pages(10, 5), pages(39, 1)}));
  CHECK((bench.read(3) == page_of(3)));
  CHECK((bench.read(9) == page_of(9)));
  for (const std::uint64_t page : {10, 14, 39, 43}) CHECK((bench.read(page) == zeros));
  CHECK((bench.read(15) == page_of(15)));
  CHECK((bench.copy(11, ByteView(bytes).first(kPage)) == std::vector<Extent>{pages(11, 1)}));
  CHECK((bench.copy(11, ByteView(bytes).first(6 * kPage)) == std::vector<Extent>{pages(11, 4)}));
  bench.give_back(9, 1);  // after
  CHECK((bench.read(9) == zeros));

  SECTION("and takes everything once the guest is paused") { bench.live.end_copy(); }
  SECTION("and starts over after begin_copy()") { bench.live.begin_copy(); }
  CHECK(bench.copy(0, bytes).empty());
  for (std::uint64_t page = 0; page < 40; ++page) CHECK((bench.read(page) == page_of(page)));
  CHECK((bench.read(43) == zeros));
}

TEST_CASE("a copied page of zeros replaces earlier bytes", "[image]") {
  Bench bench;
  Bytes bytes = test::random_bytes(8 * kPage, 1);
  bench.copy(0, bytes);
  std::fill_n(bytes.begin() + kPage, 2 * kPage, std::uint8_t{0});
  CHECK(bench.copy(0, bytes).empty());
  Bytes read(bytes.size());
  CHECK(bench.scratch->read(0, read).empty());
  CHECK((read == bytes));
}

TEST_CASE("writes and holes of the mount mark their chunks as touched, and copies do not", "[image]") {
  Bench bench;
  CHECK((bench.live.touched() == std::vector<bool>{false, false, false, false}));
  bench.copy(0, test::random_bytes(kPage, 1));
  CHECK((bench.live.touched() == std::vector<bool>{false, false, false, false}));
  bench.live.write(kChunkSize, Bytes(kPage, 1));
  bench.give_back(3 * kChunkSize / kPage - 1, 2);
  CHECK((bench.live.touched() == std::vector<bool>{false, true, true, true}));
}

TEST_CASE("a hole reads as zeros even when copies of older bytes run beside it", "[image]") {
  Bench bench;
  bench.live.begin_copy();
  const std::uint64_t count = kSize / kPage;
  std::vector<std::atomic<bool>> given_back(count);
  std::atomic<bool> done{false};
  const Bytes old(kPage * 16, 1);
  std::jthread guest([&] {
    std::mt19937_64 random(1);
    for (int i = 0; i < 2000; ++i) {
      const std::uint64_t page = random() % count;
      bench.give_back(page, 1);
      given_back[page] = true;
    }
    done = true;
  });
  std::vector<std::jthread> copiers;
  for (std::uint64_t seed : {2, 3}) {
    copiers.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      while (!done) bench.copy(random() % (count - 16), old);
    });
  }
  copiers.clear();
  guest.join();
  for (std::uint64_t page = 0; page < count; ++page) {
    if (given_back[page]) CHECK((bench.read(page) == Bytes(kPage)));
  }
}

}  // namespace isr
