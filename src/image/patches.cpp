#include "image/patches.h"

#include <map>

#include "base/error.h"
#include "base/thread_pool.h"

namespace isr {
namespace {

constexpr unsigned kReadAtOnce = 8;  // patches, whose tables mostly wait for the network

/// Runs by offset. A run that is put covers those that were put before.
class RunMap {
 public:
  void erase(std::uint64_t begin, std::uint64_t end) {
    auto at = runs_.lower_bound(begin);
    if (at != runs_.begin() && std::prev(at)->second.end() > begin) {
      PatchIndex::Run& before = std::prev(at)->second;
      if (before.end() > end) runs_.emplace_hint(at, end, part_of(before, end, before.end()));
      before = part_of(before, before.offset, begin);
    }
    while (at != runs_.end() && at->first < end) {
      const PatchIndex::Run run = at->second;
      at = runs_.erase(at);
      if (run.end() > end) runs_.emplace_hint(at, end, part_of(run, end, run.end()));
    }
  }
  void put(const PatchIndex::Run& run) {
    erase(run.offset, run.end());
    runs_.emplace(run.offset, run);
  }
  std::vector<PatchIndex::Run> in_order() const {
    std::vector<PatchIndex::Run> out;
    out.reserve(runs_.size());
    for (const auto& [offset, run] : runs_) out.push_back(run);
    return out;
  }

  static PatchIndex::Run part_of(const PatchIndex::Run& run, std::uint64_t begin, std::uint64_t end) {
    const bool is_zeros = run.patch == PatchIndex::Run::kZeros;
    return {begin, is_zeros ? 0 : run.position + (begin - run.offset), static_cast<std::uint32_t>(end - begin),
            run.patch};
  }

 private:
  std::map<std::uint64_t, PatchIndex::Run> runs_;
};

Bytes read_end(ChunkReader& reader, const std::vector<ChunkRef>& chunks, std::uint64_t patch_size, std::size_t length,
               Priority priority, const std::stop_token& stop) {
  Bytes out(length);
  const std::uint64_t begin = patch_size - length;
  const std::uint64_t first = begin / kChunkSize;
  parallel_for(chunk_count(patch_size) - first, kReadAtOnce, [&](std::size_t i) {
    const std::uint64_t from = std::max(begin, (first + i) * kChunkSize);
    const std::uint64_t end = std::min(patch_size, (first + i + 1) * kChunkSize);
    const MutableBytes part = MutableBytes(out).subspan(from - begin, end - from);
    read_reference(reader, chunks.at(first + i), from % kChunkSize, part, {true, priority, stop});
  });
  return out;
}

PatchIndex::PatchPtr read_patch(ChunkReader& reader, const TreeRoot& patch, std::uint64_t image_size, Priority priority,
                                const std::stop_token& stop) {
  // Checked before anything is allocated for its chunks.
  if (patch.size < kPatchFooterSize || patch.size > kMaxPatchSize) {
    throw Error(ErrorKind::kCorrupt, "a patch has an impossible size");
  }
  const auto read = std::make_shared<PatchIndex::Patch>();
  PatchIndex::Patch& out = *read;
  out.chunks.resize(chunk_count(patch.size));
  for_each_chunk(
      reader, patch, [&](std::uint64_t chunk, const ChunkRef& ref) { out.chunks.at(chunk) = ref; }, priority, stop);
  const Bytes footer = read_end(reader, out.chunks, patch.size, kPatchFooterSize, priority, stop);
  const std::size_t size = patch_table_size(footer, patch.size);
  out.table = parse_patch_table(read_end(reader, out.chunks, patch.size, size, priority, stop), patch.size, image_size);
  return read;
}

}  // namespace

PatchIndex::PatchIndex(std::vector<PatchPtr> patches) : patches_(std::move(patches)) {
  RunMap all;
  for (std::size_t i = patches_.size(); i-- > 0;) {
    const PatchTable& table = patches_[i]->table;
    for (const ChunkRun& run : table.cleared) all.erase(run.first * kChunkSize, run.end() * kChunkSize);
    for (const PatchRun& run : table.runs) {
      all.put({run.offset, run.position, run.length, run.is_zeros ? Run::kZeros : static_cast<std::uint32_t>(i)});
    }
  }
  runs_ = all.in_order();
}

/// The first run that ends behind `offset`.
std::vector<PatchIndex::Run>::const_iterator PatchIndex::first_behind(std::uint64_t offset) const {
  return std::upper_bound(runs_.begin(), runs_.end(), offset,
                          [](std::uint64_t at, const Run& run) { return at < run.end(); });
}

std::vector<PatchIndex::Run> PatchIndex::find(std::uint64_t offset, std::uint64_t length) const {
  std::vector<Run> found;
  const std::uint64_t end = offset + length;
  for (auto at = first_behind(offset); at != runs_.end() && at->offset < end; ++at) {
    found.push_back(RunMap::part_of(*at, std::max(at->offset, offset), std::min(at->end(), end)));
  }
  return found;
}

bool PatchIndex::touches(std::uint64_t offset, std::uint64_t length) const {
  const auto at = first_behind(offset);
  return at != runs_.end() && at->offset < offset + length;
}

void PatchIndex::read(ChunkReader& reader, const Run& run, MutableBytes out, const Access& access) const {
  if (run.patch == Run::kZeros) {
    std::fill(out.begin(), out.end(), std::uint8_t{0});
    return;
  }
  const Patch& patch = *patches_.at(run.patch);
  for (std::size_t done = 0; done < out.size();) {
    const std::uint64_t at = run.position + done;
    const std::size_t part = std::min<std::size_t>(out.size() - done, kChunkSize - at % kChunkSize);
    const MutableBytes piece = out.subspan(done, part);
    read_reference(reader, patch.chunks.at(at / kChunkSize), at % kChunkSize, piece, access);
    done += part;
  }
}

std::span<const ChunkRef> PatchIndex::chunks_of(const Run& run) const {
  if (run.patch == Run::kZeros) return {};
  const std::uint64_t first = run.position / kChunkSize;
  const std::uint64_t last = (run.position + run.length - 1) / kChunkSize;
  return std::span(patches_.at(run.patch)->chunks).subspan(first, last - first + 1);
}

BaseContent::BaseContent(const PatchedTree& content, const BaseContent& earlier) : content_(content) {
  const auto known = earlier.known();
  known_.resize(content_.patches.size());
  const auto& before = earlier.content_.patches;
  for (std::size_t i = 0; i < known_.size(); ++i) {
    const auto same = std::find(before.begin(), before.end(), content_.patches[i]);
    if (same != before.end()) known_[i] = known[static_cast<std::size_t>(same - before.begin())];
  }
}

std::vector<PatchIndex::PatchPtr> BaseContent::known() const {
  const std::lock_guard lock(mutex_);
  std::vector<PatchIndex::PatchPtr> known = owned_ ? owned_->patches() : known_;
  known.resize(content_.patches.size());
  return known;
}

const PatchIndex& BaseContent::index(ChunkReader& reader, Priority priority, const std::stop_token& stop) const {
  if (const PatchIndex* loaded = index_.load(std::memory_order_acquire)) return *loaded;
  std::vector<PatchIndex::PatchPtr> patches = known();
  // Several callers may do this at once, each with its own priority and stop; their fetches are coalesced.
  try {
    parallel_for(patches.size(), kReadAtOnce, [&](std::size_t i) {
      if (!patches[i]) patches[i] = read_patch(reader, content_.patches[i], content_.size(), priority, stop);
    });
  } catch (const std::exception&) {
    const std::lock_guard lock(mutex_);
    known_ = std::move(patches);  // a later call reads only the rest
    throw;
  }
  auto fresh = std::make_unique<const PatchIndex>(std::move(patches));
  const std::lock_guard lock(mutex_);
  if (!owned_) {
    owned_ = std::move(fresh);
    index_.store(owned_.get(), std::memory_order_release);
  }
  return *owned_;
}

std::vector<ChunkRef> BaseContent::references(ChunkReader& reader, std::uint64_t chunk, Priority priority,
                                              const std::stop_token& stop) const {
  std::vector<ChunkRef> out;
  const auto add = [&](const ChunkRef& ref) {
    if (!ref.is_zero() && std::find(out.begin(), out.end(), ref) == out.end()) out.push_back(ref);
  };
  std::uint64_t patched = 0;
  if (!content_.patches.empty()) {
    const PatchIndex& patches = index(reader, priority, stop);
    for (const PatchIndex::Run& run : patches.find(chunk * kChunkSize, kChunkSize)) {
      patched += run.length;
      for (const ChunkRef& ref : patches.chunks_of(run)) add(ref);
    }
  }
  if (patched < kChunkSize) add(find_chunk(reader, content_.tree, chunk, priority, stop));
  return out;
}

void BaseContent::read(ChunkReader& reader, std::uint64_t offset, MutableBytes out, const Access& access) const {
  const auto read_tree_chunk = [&](std::uint64_t at, std::uint64_t end) {
    if (at == end) return;
    const ChunkRef ref = find_chunk(reader, content_.tree, at / kChunkSize, access.priority, access.stop);
    read_reference(reader, ref, at % kChunkSize, out.subspan(at - offset, end - at), access);
  };
  std::uint64_t at = offset;
  if (!content_.patches.empty()) {
    const PatchIndex& patches = index(reader, access.priority, access.stop);
    for (const PatchIndex::Run& run : patches.find(offset, out.size())) {
      read_tree_chunk(at, run.offset);
      patches.read(reader, run, out.subspan(run.offset - offset, run.length), access);
      at = run.end();
    }
  }
  read_tree_chunk(at, offset + out.size());
}

void read_reference(ChunkReader& reader, const ChunkRef& ref, std::size_t within, MutableBytes out,
                    const Access& access) {
  constexpr std::size_t kPiece = 32768;  // for a larger part of a chunk, decoding all of it costs no more
  if (ref.is_zero()) {
    std::fill(out.begin(), out.end(), std::uint8_t{0});
  } else if (access.whole_chunks || out.size() > kPiece || access.priority != Priority::kGuest) {
    const ChunkData data = reader.read_chunk(ref, access.priority, access.stop);
    std::copy_n(data->begin() + static_cast<std::ptrdiff_t>(within), out.size(), out.begin());
  } else {
    reader.read_piece(ref, within, out);
  }
}

}  // namespace isr
