// All fields have a fixed size, so the counts in the footer alone give the length of the table.

#include "image/patch.h"

#include "base/crypto.h"
#include "base/error.h"

namespace isr {
namespace {

constexpr std::string_view kMagic = "ISRP";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kRunSize = 16;
constexpr std::uint32_t kData = 0;
constexpr std::uint32_t kZeros = 1;

[[noreturn]] void fail(std::string_view why) { throw Error(ErrorKind::kCorrupt, "a patch: " + std::string(why)); }

struct Footer {
  std::uint64_t data_bytes = 0;
  std::uint32_t runs = 0, cleared = 0;
  std::size_t table_size() const { return (std::size_t{runs} + cleared) * kRunSize + kPatchFooterSize; }
};

/// A table follows its data, or begins with the next chunk, so that it can be read without them.
bool may_begin_at(std::uint64_t table, std::uint64_t data_bytes) {
  return table == data_bytes || table == chunk_count(data_bytes) * kChunkSize;
}

Footer read_footer(ByteView bytes, std::uint64_t patch_size) {
  ByteReader in(bytes, "a patch");
  if (as_text(in.take(kMagic.size())) != kMagic) fail("it does not end like a patch");
  if (in.u32() != kVersion) fail("its version is unknown");
  Footer footer;
  footer.data_bytes = in.u64();
  footer.runs = in.u32();
  footer.cleared = in.u32();
  if (in.u64() != 0) fail("its padding is not zero");
  in.expect_end();
  if (footer.runs > kMaxPatchRuns || footer.cleared > kMaxClearedRuns || footer.data_bytes > kMaxPatchData) {
    fail("a count is too large");
  }
  if (footer.table_size() > patch_size || !may_begin_at(patch_size - footer.table_size(), footer.data_bytes)) {
    fail("its length does not match its table");
  }
  return footer;
}

PatchRun read_run(ByteReader& in, std::uint64_t position) {
  PatchRun run;
  run.offset = in.u64();
  run.length = in.u32();
  const std::uint32_t kind = in.u32();
  if (kind != kData && kind != kZeros) fail("a run is of an unknown kind");
  run.is_zeros = kind == kZeros;
  if (!run.is_zeros) run.position = position;
  return run;
}

}  // namespace

Sha256 digest_of(const PatchedTree& content) {
  if (content.patches.empty()) return content.tree.root.digest;
  ByteWriter all;
  all.put(content.tree.root.digest.view());
  for (const TreeRoot& patch : content.patches) all.put(patch.root.digest.view());
  return sha256(all.bytes());
}

Bytes encode_patch_table(const PatchTable& table) {
  if (table.runs.size() > kMaxPatchRuns || table.cleared.size() > kMaxClearedRuns || table.data_bytes > kMaxPatchData) {
    throw Error(ErrorKind::kBug, "a patch out of bounds");
  }
  ByteWriter out;
  for (const PatchRun& run : table.runs) out.u64(run.offset).u32(run.length).u32(run.is_zeros ? kZeros : kData);
  for (const ChunkRun& run : table.cleared) out.u64(run.first).u64(run.count);
  out.put(as_bytes(kMagic)).u32(kVersion).u64(table.data_bytes);
  out.u32(static_cast<std::uint32_t>(table.runs.size())).u32(static_cast<std::uint32_t>(table.cleared.size())).u64(0);
  return out.take();
}

std::size_t patch_table_size(ByteView footer, std::uint64_t patch_size) {
  return read_footer(footer, patch_size).table_size();
}

PatchTable parse_patch_table(ByteView table, std::uint64_t patch_size, std::uint64_t image_size) {
  if (table.size() < kPatchFooterSize) fail("it is cut short");
  const Footer footer = read_footer(table.last(kPatchFooterSize), patch_size);
  if (table.size() != footer.table_size()) fail("its table has a wrong length");
  ByteReader in(table.first(table.size() - kPatchFooterSize), "a patch");
  PatchTable out;
  out.data_bytes = footer.data_bytes;
  out.runs.reserve(footer.runs);
  std::uint64_t position = 0;
  std::uint64_t end = 0;
  for (std::uint32_t i = 0; i < footer.runs; ++i) {
    const PatchRun run = read_run(in, position);
    if (run.length == 0 || run.length > kMaxPatchRunLength) fail("a run has an impossible length");
    if (run.offset < end || run.offset > image_size || run.length > image_size - run.offset) {
      fail("a run is out of order or beyond the end of the image");
    }
    end = run.end();
    if (!run.is_zeros) position += run.length;
    out.runs.push_back(run);
  }
  if (position != footer.data_bytes) fail("its data has another length than its runs");
  std::uint64_t next = 0;
  for (std::uint32_t i = 0; i < footer.cleared; ++i) {
    const ChunkRun run{in.u64(), in.u64()};
    if (run.count == 0 || run.first < next || run.first > chunk_count(image_size) ||
        run.count > chunk_count(image_size) - run.first) {
      fail("cleared chunks are out of order or beyond the end of the image");
    }
    next = run.end();
    out.cleared.push_back(run);
  }
  return out;
}

}  // namespace isr
