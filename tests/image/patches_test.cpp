// The index of patches against a plain model: one entry for each byte of an image.

#include "image/patches.h"

#include <catch2/catch.hpp>

#include "image/patch_bench.h"

namespace isr {
namespace {

using test::at;
using test::below;
using test::random_table;
using test::table_of;

constexpr std::uint64_t kSize = test::kPatchedSize;

/// Where a byte of an image is.
struct Place {
  std::uint32_t patch = kTree;
  std::uint64_t position = 0;
  static constexpr std::uint32_t kTree = ~1U;
  friend bool operator==(const Place&, const Place&) = default;
};

std::vector<Place> model_of(const std::vector<PatchIndex::PatchPtr>& patches) {
  std::vector<Place> places(kSize);
  for (std::size_t i = patches.size(); i-- > 0;) {
    for (const ChunkRun& run : patches[i]->table.cleared) {
      const std::uint64_t end = std::min(run.end() * kChunkSize, kSize);
      for (std::uint64_t at = run.first * kChunkSize; at < end; ++at) places[at] = {};
    }
    for (const PatchRun& run : patches[i]->table.runs) {
      for (std::uint64_t at = 0; at < run.length; ++at) {
        places[run.offset + at] =
            run.is_zeros ? Place{PatchIndex::Run::kZeros, 0} : Place{static_cast<std::uint32_t>(i), run.position + at};
      }
    }
  }
  return places;
}

/// What these runs say of a range; nullopt: they are out of order, empty, overlap, or reach out of it.
std::optional<std::vector<Place>> places_of(const std::vector<PatchIndex::Run>& runs, std::uint64_t offset,
                                            std::uint64_t length) {
  std::vector<Place> places(length);
  std::uint64_t next = offset;
  for (const PatchIndex::Run& run : runs) {
    if (run.length == 0 || run.offset < next || run.end() > offset + length) return std::nullopt;
    next = run.end();
    for (std::uint64_t at = 0; at < run.length; ++at) {
      const bool is_zeros = run.patch == PatchIndex::Run::kZeros;
      places[run.offset - offset + at] = {run.patch, is_zeros ? 0 : run.position + at};
    }
  }
  return places;
}

PatchIndex index_of(std::vector<PatchTable> tables) {
  std::vector<PatchIndex::PatchPtr> patches;
  for (PatchTable& table : tables) {
    patches.push_back(std::make_shared<PatchIndex::Patch>(PatchIndex::Patch{std::move(table), {}}));
  }
  return PatchIndex(std::move(patches));
}

}  // namespace

TEST_CASE("an index says of each byte what a plain model says when patches are random", "[image]") {
  std::mt19937_64 random(20);
  for (int round = 0; round < 60; ++round) {
    std::vector<PatchIndex::PatchPtr> patches(below(random, 6));
    for (PatchIndex::PatchPtr& patch : patches) {
      patch = std::make_shared<PatchIndex::Patch>(PatchIndex::Patch{random_table(random), {}});
    }
    const std::vector<Place> model = model_of(patches);
    const PatchIndex index(patches);
    INFO("round " << round);
    REQUIRE((places_of(index.runs(), 0, kSize) == model));
    REQUIRE(index.patches().size() == patches.size());
    for (int i = 0; i < 100; ++i) {
      const std::uint64_t offset = below(random, kSize);
      const std::uint64_t length = std::min(1 + below(random, i % 2 == 0 ? 5'000 : 300'000), kSize - offset);
      const auto from = at(model, offset);
      const std::vector<Place> wanted(from, from + static_cast<std::ptrdiff_t>(length));
      REQUIRE((places_of(index.find(offset, length), offset, length) == wanted));
      const bool touched = std::any_of(wanted.begin(), wanted.end(), [](const Place& at) { return at != Place{}; });
      REQUIRE(index.touches(offset, length) == touched);
    }
  }
}

TEST_CASE("an index takes a byte from the newest patch when several have it", "[image]") {
  const PatchIndex index = index_of(
      {table_of({{100, 50, false, 0}, {300, 20, true, 0}}), table_of({{0, 10, false, 0}, {90, 300, false, 0}})});
  const std::vector<PatchIndex::Run>& runs = index.runs();
  const auto is = [&](std::size_t i, std::uint64_t offset, std::uint64_t position, std::uint32_t length,
                      std::uint32_t patch) {
    const PatchIndex::Run& run = runs.at(i);
    return run.offset == offset && run.position == position && run.length == length && run.patch == patch;
  };
  REQUIRE(runs.size() == 6);
  CHECK(is(0, 0, 0, 10, 1));
  CHECK(is(1, 90, 10, 10, 1));
  CHECK(is(2, 100, 0, 50, 0));
  CHECK(is(3, 150, 70, 150, 1));
  CHECK(is(4, 300, 0, 20, PatchIndex::Run::kZeros));
  CHECK(is(5, 320, 240, 70, 1));
}

TEST_CASE("a patch takes back older patches of a chunk but not its own when it clears the chunk", "[image]") {
  const std::uint64_t second = kChunkSize, third = 2 * kChunkSize;
  const PatchIndex index =
      index_of({table_of({{third + 5, 5, false, 0}}), table_of({{second + 10, 20, false, 0}}, {{1, 1}}),
                table_of({{second - 100, 400, false, 0}, {third - 50, 100, true, 0}})});
  CHECK(index.touches(second - 1, 1));
  CHECK_FALSE(index.touches(second, 10));
  CHECK(index.find(second, kChunkSize).size() == 1);
  CHECK(index.find(second, kChunkSize)[0].patch == 1);
  CHECK_FALSE(index.touches(second + 30, kChunkSize - 30));
  CHECK(index.find(third, 100).size() == 3);  // zeros, the newest patch, zeros
}

TEST_CASE("an index finds only what lies inside the range when runs reach over its ends", "[image]") {
  const PatchIndex index = index_of({table_of({{100, 100, false, 0}, {200, 100, true, 0}})});
  CHECK_FALSE(index.touches(0, 100));
  CHECK(index.touches(0, 101));
  CHECK(index.touches(299, 1));
  CHECK_FALSE(index.touches(300, 1000));
  const auto found = index.find(150, 100);
  REQUIRE(found.size() == 2);
  CHECK((found[0].offset == 150 && found[0].length == 50 && found[0].position == 50));
  CHECK((found[1].offset == 200 && found[1].length == 50 && found[1].position == 0));
}

}  // namespace isr
