#include "image/snapshot.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"

namespace isr {
namespace {

constexpr std::size_t kSealedAtOnce = 1024;  // chunks: bounds memory
constexpr std::uint64_t kMostMoved = 2;      // a segment of which more than 1/2 is needed stays

/// Fills gaps of a chunk buffer from the reference below.
void fill_gaps(ChunkReader& reader, const ChunkRef& below, std::uint64_t chunk, const std::vector<Extent>& gaps,
               MutableBytes out, Priority priority, const std::stop_token& stop) {
  if (gaps.empty() || below.is_zero()) {
    for (const Extent& gap : gaps) {
      std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(gap.offset - chunk * kChunkSize), gap.length,
                  std::uint8_t{0});
    }
    return;
  }
  const ChunkData data = reader.read_chunk(below, priority, stop);
  for (const Extent& gap : gaps) {
    const auto within = static_cast<std::ptrdiff_t>(gap.offset - chunk * kChunkSize);
    std::copy_n(data->begin() + within, gap.length, out.begin() + within);
  }
}

/// True for the errors of a source that does not have an object, or not now.
constexpr bool is_of_a_source(ErrorKind kind) {
  return kind == ErrorKind::kCorrupt || kind == ErrorKind::kOffline || kind == ErrorKind::kTransient;
}

/// Writes the bytes that `from` has of a chunk, without its gaps.
void copy_bytes(Overlay& from, std::uint64_t chunk, std::uint64_t length, Overlay& to) {
  const std::uint64_t begin = chunk * kChunkSize;
  Bytes bytes(length);
  std::uint64_t at = 0;
  const auto write_until = [&](std::uint64_t end) {
    if (at < end) to.write(begin + at, ByteView(bytes).subspan(at, end - at));
  };
  for (const Extent& gap : from.read(begin, bytes)) {
    write_until(gap.offset - begin);
    at = gap.offset - begin + gap.length;
  }
  write_until(length);
}

/// Construct it before the first of some objects is put. Then sync() guarantees that all of them are durable, or
/// throws, even if another thread's sync of the store failed meanwhile.
class ObjectsToSync {
 public:
  explicit ObjectsToSync(PackStore& store) : store_(store), failed_before_(store.failed_syncs()) {}
  void sync() const {
    store_.sync();
    if (store_.failed_syncs() == failed_before_) return;
    throw Error(ErrorKind::kIo,
                fmt::format("{}: a sync failed, and sealed objects were lost with it", store_.describe()));
  }

 private:
  PackStore& store_;
  std::uint64_t failed_before_;
};

void put_object(const SealContext& context, const SealedObject& sealed) {
  if (context.sweep != nullptr) context.sweep->keep(sealed.ref.cid);
  context.settled.put(sealed.ref.cid, sealed.bytes);
}

ChunkRef put_sealed(const SealContext& context, ByteView plaintext) {
  const SealedObject sealed = seal_chunk(plaintext, context.domain_secret);
  if (!sealed.ref.is_zero()) put_object(context, sealed);
  return sealed.ref;
}

/// Seals some of the chunks that the frozen layer has changed.
void seal_some(const SealContext& context, FrozenChanges& frozen, const TreeRoot& base, std::span<SealedChunk> chunks,
               std::map<std::uint64_t, ChunkRef>& changes) {
  std::vector<ChunkRef> before(chunks.size());
  parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
    auto& [chunk, sealed] = chunks[i];
    before[i] = find_chunk(context.reader, base, chunk, Priority::kUpload, context.stop);
    sealed = frozen.frozen_replaced(chunk).value_or(before[i]);
    if (!frozen.frozen_has_bytes(chunk)) return;
    thread_local Bytes plaintext(kChunkSize);
    const auto gaps = frozen.read_frozen(chunk * kChunkSize, plaintext);
    fill_gaps(context.reader, sealed, chunk, gaps, plaintext, Priority::kUpload, context.stop);
    sealed = put_sealed(context, plaintext);
  });
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].ref != before[i]) changes.emplace(chunks[i].chunk, chunks[i].ref);
  }
}

struct Sealed {
  std::vector<PieceAt> seen;
  std::optional<ChunkRef> ref;
};

/// `ref` is nullopt when the rest of the chunk is not available now.
Sealed seal_active(const SealContext& context, const SettleImage& of, std::uint64_t chunk) {
  Sealed sealed;
  sealed.seen = of.overlay.pieces_of(chunk);
  if (sealed.seen.empty()) return sealed;  // replaced or forgotten meanwhile
  thread_local Bytes plaintext(kChunkSize);
  const auto gaps = of.overlay.read(chunk * kChunkSize, plaintext);
  ChunkRef below;
  if (!gaps.empty()) {
    // In this order, as everywhere: a publish sets the new base before the overlay drops the published changes.
    const auto replaced = of.overlay.replaced(chunk);
    below =
        replaced ? *replaced : find_chunk(context.reader, of.image->base(), chunk, Priority::kSettling, context.stop);
  }
  fill_gaps(context.reader, below, chunk, gaps, plaintext, Priority::kSettling, context.stop);
  sealed.ref = put_sealed(context, plaintext);
  return sealed;
}

/// Seals one image's bytes in the segment.
void settle_segment(const SealContext& context, const SettleImage& of, const SegmentPtr& segment) {
  const std::vector<std::uint64_t> all = of.overlay.chunks_with_bytes(segment);
  for (std::span<const std::uint64_t> rest = all; !rest.empty();) {
    const auto chunks = rest.first(std::min(rest.size(), kSealedAtOnce));
    rest = rest.subspan(chunks.size());
    std::vector<Sealed> sealed(chunks.size());
    const ObjectsToSync objects(context.settled);
    parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
      if (context.stop.stop_requested()) throw Error(ErrorKind::kCancelled, "settling was stopped");
      try {
        sealed[i] = seal_active(context, of, chunks[i]);
      } catch (const Error& error) {
        // The chunk stays in the journal, where it can still be read; others can be settled.
        if (!is_of_a_source(error.kind())) throw;
        if (error.kind() == ErrorKind::kCorrupt) log::warn("settling {}: {}", of.image->name(), error.what());
      }
    });
    // The objects must be durable before a record says that they replace the bytes.
    objects.sync();
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (sealed[i].ref) of.overlay.replace_chunk(chunks[i], *sealed[i].ref, sealed[i].seen);
    }
  }
}

/// The number of needed bytes in each segment.
std::map<SegmentPtr, std::uint64_t> live_bytes(std::span<const SettleImage> images) {
  std::map<SegmentPtr, std::uint64_t> live;
  for (const SettleImage& image : images) image.overlay.add_live_bytes(live);
  return live;
}

/// Leaves out segments that only a reader still holds.
std::vector<SegmentPtr> most_garbage_first(const Journal& journal, std::span<const SettleImage> images) {
  const auto live = live_bytes(images);
  std::vector<SegmentPtr> segments;
  std::map<SegmentPtr, std::uint64_t> garbage;
  for (const SegmentPtr& segment : journal.full_segments()) {
    const auto found = live.find(segment);
    if (found == live.end()) continue;
    segments.push_back(segment);
    garbage[segment] = journal.size_of(segment) - std::min(journal.size_of(segment), found->second);
  }
  std::stable_sort(segments.begin(), segments.end(),
                   [&](const SegmentPtr& a, const SegmentPtr& b) { return garbage[a] > garbage[b]; });
  return segments;
}

}  // namespace

SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const TreeRoot& base) {
  const DirtyChunks dirty = frozen.frozen_chunks();
  const ObjectsToSync objects(context.settled);
  std::map<std::uint64_t, ChunkRef> changes;
  SealedImage result;
  result.chunks.reserve(dirty.chunks.size());
  for (const std::uint64_t chunk : dirty.chunks) result.chunks.push_back({chunk, {}});
  for (std::span<SealedChunk> rest = result.chunks; !rest.empty();) {
    const auto some = rest.first(std::min(rest.size(), kSealedAtOnce));
    seal_some(context, frozen, base, some, changes);
    rest = rest.subspan(some.size());
  }
  for (const auto& [chunk, ref] : changes) {
    if (ref.is_zero()) continue;
    if (context.sweep != nullptr) context.sweep->keep(ref.cid);  // it may have been settled before
    result.new_objects.push_back({ref.cid, ref.length});
  }
  const auto emit = [&](const SealedObject& page) {
    put_object(context, page);
    result.new_objects.push_back({page.ref.cid, page.ref.length});
  };
  result.root = update_tree(context.reader, base, changes, context.domain_secret, emit, dirty.zeros);
  objects.sync();
  return result;
}

std::uint64_t settle_some(const SealContext& context, Journal& journal, std::span<const SettleImage> images) {
  if (const std::uint64_t freed = journal.collect(); freed > 0) return freed;
  for (SegmentPtr& segment : most_garbage_first(journal, images)) {
    for (const SettleImage& image : images) settle_segment(context, image, segment);
    const std::uint64_t size = journal.size_of(segment);
    const std::uint64_t live = live_bytes(images)[segment];
    // A move must free as much as it writes, so that settling costs a bounded share of the written bytes.
    if (live * kMostMoved > size) continue;
    for (const SettleImage& image : images) image.overlay.move_records(segment);
    segment.reset();  // our own pointer would keep it
    journal.collect();
    return size - live;
  }
  return 0;
}

void settle_memory(const SealContext& context, Image& memory, ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal) {
  const auto dirty = scratch.dirty_chunks();
  const std::vector<std::uint64_t> chunks(dirty.begin(), dirty.end());
  std::vector<std::optional<ChunkRef>> refs(chunks.size());
  const ObjectsToSync objects(context.settled);
  parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
    thread_local Bytes plaintext(kChunkSize);
    try {
      const std::size_t got = memory.read(chunks[i] * kChunkSize, plaintext);
      std::fill(plaintext.begin() + static_cast<std::ptrdiff_t>(got), plaintext.end(), std::uint8_t{0});
    } catch (const Error& error) {
      if (!is_of_a_source(error.kind())) throw;
      return;
    }
    refs[i] = put_sealed(context, plaintext);
  });
  objects.sync();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (refs[i]) {
      below.set_chunk(chunks[i], *refs[i]);
    } else {
      copy_bytes(scratch, chunks[i], std::min(memory.size() - chunks[i] * kChunkSize, kChunkSize), below);
    }
  }
  journal.sync();
}

}  // namespace isr
