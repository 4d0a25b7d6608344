#include "image/read_ahead.h"

#include <catch2/catch.hpp>
#include <random>
#include <set>

#include "chunkstore/object.h"

namespace isr {
namespace {

constexpr std::uint64_t kChunks = 4096;

/// What was asked for besides the chunks that are read.
struct Asked {
  explicit Asked(std::uint64_t count = kChunks) : chunks(count) {}
  std::uint64_t read(std::uint64_t offset, std::uint64_t length) {
    const AheadRange range = ahead.on_read(offset, length, chunks, most);
    std::uint64_t fresh = 0;
    for (std::uint64_t chunk = range.first; chunk < range.end; ++chunk) {
      CHECK(chunk < chunks);
      fresh += asked.insert(chunk).second ? 1 : 0;
      repeated += asked.contains(chunk) ? 0 : 1;
    }
    return fresh;
  }
  std::uint64_t in_flight(std::uint64_t offset) const {
    return static_cast<std::uint64_t>(std::distance(asked.lower_bound(offset / kChunkSize), asked.end()));
  }
  ReadAhead ahead;
  std::uint64_t most = 32;
  std::uint64_t chunks;
  std::set<std::uint64_t> asked;
  std::uint64_t repeated = 0;
};

}  // namespace

TEST_CASE("sequential reads of any size keep many chunks ahead", "[image]") {
  const std::uint64_t size = GENERATE(4096, 131072, 1048576);
  const std::uint64_t start = GENERATE(0, 4096 * 7);
  Asked asked;
  std::uint64_t offset = start;
  for (; offset < start + (8U << 20U); offset += size) asked.read(offset, size);
  for (int i = 0; i < 1000 && offset < (64U << 20U); ++i, offset += size) {
    asked.read(offset, size);
    CHECK(asked.in_flight(offset + size) >= 14);
    CHECK(asked.in_flight(offset + size) <= 33);
  }
}

TEST_CASE("random reads fetch nothing ahead, even in a small image", "[image]") {
  const std::uint64_t chunks = GENERATE(64, 4096);
  Asked asked(chunks);
  std::mt19937_64 random(1);
  for (int i = 0; i < 5000; ++i) asked.read(random() % (chunks * 32) * 4096, 4096);
  CHECK(asked.asked.size() < 64);  // two of them may follow each other by chance
}

TEST_CASE("one large read fetches only its own chunks", "[image]") {
  Asked asked;
  asked.read(5 * kChunkSize + 100, 8 * kChunkSize);
  CHECK((asked.asked == std::set<std::uint64_t>{6, 7, 8, 9, 10, 11, 12, 13}));
}

TEST_CASE("a stream whose reads are reordered stays one stream", "[image]") {
  Asked asked;
  std::uint64_t next = 0;
  for (; next < 8; ++next) asked.read(next * kChunkSize, kChunkSize);
  for (; next < 400; next += 4) {
    for (const std::uint64_t at : {1, 0, 3, 2}) asked.read((next + at) * kChunkSize, kChunkSize);
    CHECK(asked.in_flight((next + 4) * kChunkSize) >= 8);
  }
}

TEST_CASE("several streams and random reads between them do not disturb each other", "[image]") {
  Asked asked(1U << 20U);
  std::mt19937_64 random(2);
  const std::uint64_t starts[] = {0, 10'000, 20'000, 30'000};
  for (std::uint64_t i = 0; i < 400; ++i) {
    for (const std::uint64_t start : starts) {
      asked.read(start * kChunkSize + i * 65536, 65536);
      for (int r = 0; i > 1 && r < 10; ++r) asked.read((100'000 + random() % 900'000) * kChunkSize, 4096);
    }
  }
  for (const std::uint64_t start : starts) {
    CHECK(asked.asked.contains(start + 200 + 10));
    CHECK_FALSE(asked.asked.contains(start + 200 + 40));
  }
}

TEST_CASE("a sequential reader on a thin link gets no further ahead than allowed", "[image]") {
  Asked asked;
  asked.most = 2;
  std::uint64_t at = 0;
  for (; at < 50; ++at) asked.read(at * kChunkSize, kChunkSize);
  CHECK(asked.asked.contains(at + 1));
  CHECK(*asked.asked.rbegin() <= at + 2);
}

TEST_CASE("nothing is fetched beyond the end", "[image]") {
  Asked asked(10);
  for (std::uint64_t at = 0; at < 10; ++at) asked.read(at * kChunkSize, kChunkSize);
  CHECK(*asked.asked.rbegin() == 9);
}

}  // namespace isr
