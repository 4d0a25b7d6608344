#include "image/patch.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::kind_thrown;

constexpr std::uint64_t kImageSize = 1'000'000;  // 8 chunks, the last one not whole
constexpr std::string_view kData = "abcdefghijklmnopqr";
// Places in the table of sample().
constexpr std::size_t kRun = 16;
constexpr std::size_t kLength = 8, kKind = 12, kCount = 8;                          // in a run
constexpr std::size_t kCleared = 4 * kRun, kFooter = 6 * kRun;                      // in the table
constexpr std::size_t kVersion = 4, kDataBytes = 8, kRuns = 16, kClearedRuns = 20;  // in the footer
constexpr std::size_t kPadding = 24;

PatchTable sample() {
  PatchTable table;
  table.data_bytes = kData.size();
  table.runs = {{4096, 3, false, 0},
                {131'070, 5, false, 3},  // over the border of two chunks
                {262'144, 131'072, true, 0},
                {999'990, 10, false, 8}};  // up to the end of the image
  table.cleared = {{2, 1}, {5, 2}};
  return table;
}

std::uint64_t size_of(const PatchTable& table) { return table.data_bytes + encode_patch_table(table).size(); }

void check_refused(ByteView table, std::uint64_t patch_size, std::uint64_t image_size = kImageSize) {
  CHECK(kind_thrown([&] { parse_patch_table(table, patch_size, image_size); }) == ErrorKind::kCorrupt);
}

/// The footer alone gives it away, so nothing more is read of such a patch.
void check_footer_refused(const Bytes& table, std::uint64_t patch_size) {
  CHECK(kind_thrown([&] { patch_table_size(ByteView(table).last(kPatchFooterSize), patch_size); }) ==
        ErrorKind::kCorrupt);
  check_refused(table, patch_size);
}

Bytes with_byte(Bytes table, std::size_t at, std::uint8_t value) {
  table.at(at) = value;
  return table;
}

/// The sample with another number of `width` bytes.
Bytes with_number(Bytes table, std::size_t at, std::uint64_t value, std::size_t width) {
  for (std::size_t i = 0; i < width; ++i) table.at(at + i) = static_cast<std::uint8_t>(value >> (8 * i));
  return table;
}

bool parses_back(const PatchTable& table, std::uint64_t image_size) {
  const PatchTable parsed = parse_patch_table(encode_patch_table(table), size_of(table), image_size);
  return parsed.data_bytes == table.data_bytes && parsed.runs == table.runs && parsed.cleared == table.cleared;
}

std::vector<PatchRun> many_zeros(std::size_t count) {
  std::vector<PatchRun> runs;
  for (std::size_t i = 0; i < count; ++i) runs.push_back({2 * i, 1, true, 0});
  return runs;
}

std::vector<ChunkRun> many_cleared(std::size_t count) {
  std::vector<ChunkRun> cleared;
  for (std::size_t i = 0; i < count; ++i) cleared.push_back({2 * i, 1});
  return cleared;
}

}  // namespace

TEST_CASE("a patch has exactly the bytes of its golden file when it is encoded", "[image]") {
  const Bytes golden = read_file(fs::path(ISR_GOLDEN_DIR) / "patch" / "v1", 65536);
  Bytes patch = to_bytes(as_bytes(kData));
  const Bytes table = encode_patch_table(sample());
  patch.insert(patch.end(), table.begin(), table.end());
  CHECK((patch == golden));
  CHECK(patch_table_size(ByteView(golden).last(kPatchFooterSize), golden.size()) == table.size());
  const PatchTable parsed = parse_patch_table(ByteView(golden).last(table.size()), golden.size(), kImageSize);
  CHECK(parsed.data_bytes == kData.size());
  CHECK((parsed.runs == sample().runs));
  CHECK((parsed.cleared == sample().cleared));
}

TEST_CASE("a patch is refused when its footer has anything unexpected", "[image]") {
  const Bytes good = encode_patch_table(sample());
  const std::uint64_t size = size_of(sample());
  REQUIRE_FALSE(kind_thrown([&] { parse_patch_table(good, size, kImageSize); }));
  for (std::size_t i = 0; i < kVersion; ++i) check_footer_refused(with_byte(good, kFooter + i, 'X'), size);
  check_footer_refused(with_byte(good, kFooter + kVersion, 0), size);
  check_footer_refused(with_byte(good, kFooter + kVersion, 2), size);
  check_footer_refused(with_byte(good, kFooter + kVersion + 3, 1), size);
  for (std::size_t i = 0; i < 8; ++i) check_footer_refused(with_byte(good, kFooter + kPadding + i, 1), size);
  check_footer_refused(good, size - 1);
  check_footer_refused(good, size + 1);
  check_footer_refused(good, 0);
  check_footer_refused(with_byte(good, kFooter + kDataBytes, 17), size);
  check_footer_refused(with_number(good, kFooter + kDataBytes, ~std::uint64_t{0}, 8), size);
  check_footer_refused(with_byte(good, kFooter + kRuns, 3), size);
  check_footer_refused(with_byte(good, kFooter + kClearedRuns, 3), size);
  check_footer_refused(with_byte(good, kFooter + kRuns + 3, 0xff), size);         // 4 billion runs
  check_footer_refused(with_byte(good, kFooter + kClearedRuns + 3, 0xff), size);  // as many runs of cleared chunks
  CHECK(kind_thrown([&] { patch_table_size(ByteView(good).last(31), size); }) == ErrorKind::kCorrupt);
  CHECK(kind_thrown([&] { patch_table_size(ByteView(good).last(33), size); }) == ErrorKind::kCorrupt);
}

TEST_CASE("a table begins where its data end or with the next chunk, and is refused elsewhere", "[image]") {
  const Bytes table = encode_patch_table(sample());
  const std::uint64_t data = sample().data_bytes;
  REQUIRE(data > 1);
  for (const std::uint64_t begin : {data, std::uint64_t{kChunkSize}}) {
    const std::uint64_t size = begin + table.size();
    CHECK(patch_table_size(ByteView(table).last(kPatchFooterSize), size) == table.size());
    CHECK((parse_patch_table(table, size, kImageSize).runs == sample().runs));
    check_footer_refused(table, size - 1);
    check_footer_refused(table, size + 1);
  }
  check_footer_refused(table, 2 * kChunkSize + table.size());
  check_footer_refused(table, table.size());
}

TEST_CASE("a patch is refused when its table has another length than its footer says", "[image]") {
  const Bytes good = encode_patch_table(sample());
  const std::uint64_t size = size_of(sample());
  check_refused({}, size);
  check_refused(ByteView(good).last(kPatchFooterSize - 1), size);
  check_refused(ByteView(good).last(kPatchFooterSize), size);
  check_refused(ByteView(good).last(good.size() - kRun), size);
  check_refused(ByteView(good).first(good.size() - 1), size);
  Bytes longer(kRun);
  longer.insert(longer.end(), good.begin(), good.end());
  check_refused(longer, size);
}

TEST_CASE("a patch is refused when its runs are out of order, overlap or reach beyond the image", "[image]") {
  const Bytes good = encode_patch_table(sample());
  const std::uint64_t size = size_of(sample());
  const auto with_offset = [&](std::size_t run, std::uint64_t offset) {
    return with_number(good, run * kRun, offset, 8);
  };
  CHECK_FALSE(kind_thrown([&] { parse_patch_table(with_offset(1, 4099), size, kImageSize); }));  // right behind
  check_refused(with_offset(1, 4098), size);
  check_refused(with_offset(1, 4096), size);
  check_refused(with_offset(1, 0), size);
  check_refused(with_offset(2, 131'074), size);
  check_refused(with_offset(3, 999'991), size);
  check_refused(with_offset(3, kImageSize), size);
  check_refused(with_offset(3, ~std::uint64_t{0}), size);
  check_refused(with_offset(3, ~std::uint64_t{0} - 9), size);  // its end is 0
  check_refused(good, size, kImageSize - 1);
  check_refused(good, size, 0);
}

TEST_CASE("a patch is refused when a run has an unknown kind or another length than its data", "[image]") {
  const Bytes good = encode_patch_table(sample());
  const std::uint64_t size = size_of(sample());
  check_refused(with_byte(good, kKind, 2), size);
  check_refused(with_byte(good, kKind + 3, 1), size);
  check_refused(with_byte(good, kKind, 1), size);             // its bytes belong to no run
  check_refused(with_byte(good, 2 * kRun + kKind, 0), size);  // zeros that would need bytes
  check_refused(with_byte(good, kLength, 0), size);
  check_refused(with_byte(good, kLength, 2), size);
  check_refused(with_byte(good, kLength, 4), size);
  check_refused(with_number(good, 2 * kRun + kLength, 0, 4), size);
  check_refused(with_byte(good, kFooter + kDataBytes, 17), size - 1);
  check_refused(with_byte(good, kFooter + kDataBytes, 19), size + 1);
}

TEST_CASE("a patch is refused when its cleared chunks are out of order or beyond the image", "[image]") {
  const Bytes good = encode_patch_table(sample());
  const std::uint64_t size = size_of(sample());
  const auto with_cleared = [&](std::size_t run, std::uint64_t first, std::uint64_t count) {
    const std::size_t at = kCleared + run * kRun;
    return with_number(with_number(good, at, first, 8), at + kCount, count, 8);
  };
  CHECK_FALSE(kind_thrown([&] { parse_patch_table(with_cleared(1, 3, 5), size, kImageSize); }));  // up to the end
  check_refused(with_cleared(0, 2, 0), size);
  check_refused(with_cleared(1, 2, 1), size);
  check_refused(with_cleared(1, 1, 1), size);
  check_refused(with_cleared(0, 2, 4), size);
  check_refused(with_cleared(1, 3, 6), size);
  check_refused(with_cleared(1, 8, 1), size);
  check_refused(with_cleared(1, 9, 1), size);
  check_refused(with_cleared(1, ~std::uint64_t{0}, 2), size);  // its end is 1
  check_refused(with_cleared(1, 5, ~std::uint64_t{0}), size);
}

TEST_CASE("a patch may have a run of 1 GiB and is refused when a run is longer", "[image]") {
  constexpr std::uint64_t kLarge = 4ULL << 30U;
  PatchTable table;
  table.runs = {{0, kMaxPatchRunLength, true, 0}, {kMaxPatchRunLength, kMaxPatchRunLength, false, 0}};
  table.data_bytes = kMaxPatchRunLength;
  CHECK(parses_back(table, kLarge));
  const Bytes good = encode_patch_table(table);
  const std::size_t run = GENERATE(std::size_t{0}, std::size_t{1}) * kRun;
  check_refused(with_number(good, run + kLength, kMaxPatchRunLength + 1, 4), size_of(table), kLarge);
}

TEST_CASE("a patch holds as many runs as documented and is refused when it has more", "[image]") {
  constexpr std::uint64_t kLarge = 2 * kMaxClearedRuns * kChunkSize;
  PatchTable table;
  table.runs = many_zeros(kMaxPatchRuns);
  table.cleared = many_cleared(kMaxClearedRuns);
  CHECK(parses_back(table, kLarge));
  PatchTable more = table;
  SECTION("runs") { more.runs = many_zeros(kMaxPatchRuns + 1); }
  SECTION("runs of cleared chunks") { more.cleared = many_cleared(kMaxClearedRuns + 1); }
  CHECK(kind_thrown([&] { encode_patch_table(more); }) == ErrorKind::kBug);
  Bytes bytes = encode_patch_table(table);
  const bool has_more_runs = more.runs.size() > table.runs.size();
  const std::size_t at = bytes.size() - kPatchFooterSize + (has_more_runs ? kRuns : kClearedRuns);
  bytes = with_number(bytes, at, kMaxPatchRuns + 1, 4);
  bytes.insert(bytes.begin(), kRun, 0);
  check_footer_refused(bytes, bytes.size());
}

TEST_CASE("a patch of nothing parses back when it is encoded", "[image]") {
  CHECK(encode_patch_table({}).size() == kPatchFooterSize);
  CHECK(parses_back({}, 1));
}

TEST_CASE("contents have one digest only when tree and patches are the same", "[image]") {
  const auto root = [](std::uint8_t byte) {
    TreeRoot tree{4096, {}};
    tree.root.length = 100;
    tree.root.digest.value.fill(byte);
    return tree;
  };
  CHECK((digest_of({root(1)}) == root(1).root.digest));
  const std::vector<PatchedTree> contents = {{root(1)},
                                             {root(2)},
                                             {root(1), {root(2)}},
                                             {root(2), {root(1)}},
                                             {root(1), {root(2), root(3)}},
                                             {root(1), {root(3), root(2)}},
                                             {{4096, {}}, {root(1)}}};
  for (std::size_t i = 0; i < contents.size(); ++i) {
    for (std::size_t j = 0; j < contents.size(); ++j) {
      CHECK((digest_of(contents[i]) == digest_of(contents[j])) == (i == j));
    }
  }
}

}  // namespace isr
