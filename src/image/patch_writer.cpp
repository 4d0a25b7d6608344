#include "image/patch_writer.h"

#include "base/error.h"
#include "base/thread_pool.h"
#include "image/tree_builder.h"

namespace isr {
namespace {

constexpr std::size_t kSealedAtOnce = 16;              // chunks: bounds memory
constexpr std::size_t kRoomOfAChunk = kChunkSize / 2;  // runs: every second byte

}  // namespace

PatchWriter::PatchWriter(const Key& domain_secret, unsigned threads, EmitObject emit)
    : domain_secret_(domain_secret), threads_(threads), emit_(std::move(emit)) {}

void PatchWriter::add(std::uint64_t offset, ByteView bytes) {
  if (is_zero(bytes)) return add_zeros(offset, bytes.size());
  auto& runs = table_.runs;
  if (!runs.empty() && offset < runs.back().end()) throw Error(ErrorKind::kBug, "a patch's runs are out of order");
  const bool continues = !runs.empty() && !runs.back().is_zeros && runs.back().end() == offset &&
                         runs.back().length + bytes.size() <= kMaxPatchRunLength;
  if (continues) {
    runs.back().length += static_cast<std::uint32_t>(bytes.size());
  } else {
    runs.push_back({offset, static_cast<std::uint32_t>(bytes.size()), false, table_.data_bytes});
  }
  table_.data_bytes += bytes.size();
  put(bytes);
}

void PatchWriter::add_zeros(std::uint64_t offset, std::uint64_t length) {
  auto& runs = table_.runs;
  if (!runs.empty() && offset < runs.back().end()) throw Error(ErrorKind::kBug, "a patch's runs are out of order");
  while (length > 0) {
    const auto part = static_cast<std::uint32_t>(std::min<std::uint64_t>(length, kMaxPatchRunLength));
    const bool continues = !runs.empty() && runs.back().is_zeros && runs.back().end() == offset &&
                           runs.back().length <= kMaxPatchRunLength - part;
    if (continues) {
      runs.back().length += part;
    } else {
      runs.push_back({offset, part, true, 0});
    }
    offset += part;
    length -= part;
  }
}

void PatchWriter::clear(const ChunkRun& run) {
  auto& cleared = table_.cleared;
  if (!cleared.empty() && run.first < cleared.back().end()) {
    throw Error(ErrorKind::kBug, "a patch's cleared chunks are out of order");
  }
  if (!cleared.empty() && cleared.back().end() == run.first) {
    cleared.back().count += run.count;
  } else {
    cleared.push_back(run);
  }
}

bool PatchWriter::is_full() const noexcept {
  return table_.runs.size() + kRoomOfAChunk > kMaxPatchRuns || table_.cleared.size() == kMaxClearedRuns ||
         table_.data_bytes + kChunkSize > kMaxPatchData;
}

void PatchWriter::put(ByteView bytes) {
  open_.insert(open_.end(), bytes.begin(), bytes.end());
  if (open_.size() >= kSealedAtOnce * kChunkSize) seal_full_chunks();
}

void PatchWriter::pad() { open_.resize(chunk_count(open_.size()) * kChunkSize); }

void PatchWriter::seal_full_chunks() {
  const std::size_t count = open_.size() / kChunkSize;
  std::vector<SealedObject> objects(count);
  parallel_for(count, threads_, [&](std::size_t i) {
    objects[i] = seal_chunk(ByteView(open_).subspan(i * kChunkSize, kChunkSize), domain_secret_);
  });
  for (const SealedObject& object : objects) {
    if (!object.ref.is_zero()) emit_(object);
    sealed_.push_back(object.ref);
  }
  open_.erase(open_.begin(), open_.begin() + static_cast<std::ptrdiff_t>(count * kChunkSize));
}

TreeRoot PatchWriter::finish() {
  const Bytes table = encode_patch_table(table_);
  // Not beside data, unless one chunk has all: a reader wants the table first.
  if (!sealed_.empty() || open_.size() + table.size() > kChunkSize) pad();
  put(table);
  const std::uint64_t size = sealed_.size() * kChunkSize + open_.size();
  pad();
  seal_full_chunks();
  TreeBuilder tree(size, domain_secret_, emit_);
  for (const ChunkRef& ref : sealed_) tree.add(ref);
  return tree.finish();
}

}  // namespace isr
