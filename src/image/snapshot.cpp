#include "image/snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "image/seal_objects.h"

namespace isr {
namespace {

constexpr std::size_t kSealedAtOnce = 1024;  // chunks: bounds memory
constexpr std::uint64_t kMostMoved = 2;      // a segment of which more than 1/2 is needed stays

/// Fills the gaps of a chunk from what lies below its bytes.
void fill_gaps(const SealContext& context, const std::optional<ChunkRef>& replaced, const BaseContent& base,
               std::uint64_t chunk, const std::vector<Extent>& gaps, MutableBytes out) {
  const Access access{.whole_chunks = true, .priority = Priority::kSettling, .stop = context.stop};
  for (const Extent& gap : gaps) {
    const std::size_t within = gap.offset - chunk * kChunkSize;
    const MutableBytes bytes = out.subspan(within, gap.length);
    if (replaced) {
      read_reference(*context.reader, *replaced, within, bytes, access);
    } else {
      base.read(*context.reader, gap.offset, bytes, access);
    }
  }
}

/// Writes the bytes that `from` has of a chunk, without its gaps.
void copy_bytes(Overlay& from, std::uint64_t chunk, std::uint64_t length, Overlay& to) {
  const std::uint64_t begin = chunk * kChunkSize;
  Bytes bytes(length);
  std::uint64_t at = 0;
  const auto write_until = [&](std::uint64_t end) {
    if (at == end) return;
    const ByteView part = ByteView(bytes).subspan(at, end - at);
    if (is_zero(part)) {
      to.zero(begin + at, part.size());
    } else {
      to.write(begin + at, part);
    }
  };
  for (const Extent& gap : from.read(begin, bytes)) {
    write_until(gap.offset - begin);
    at = gap.offset - begin + gap.length;
  }
  write_until(length);
}

struct Sealed {
  std::vector<PieceAt> seen;
  std::optional<ChunkRef> ref;
};

std::uint64_t bytes_of(const std::vector<PieceAt>& pieces) {
  return std::accumulate(pieces.begin(), pieces.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const PieceAt& at) { return sum + at.piece.length; });
}

/// `ref` is nullopt when the rest of the chunk is not available now, or little of it changed.
Sealed seal_active(const SealContext& context, const SettleImage& of, std::uint64_t chunk) {
  Sealed sealed;
  sealed.seen = of.overlay.pieces_of(chunk);
  if (sealed.seen.empty()) return sealed;  // replaced or forgotten meanwhile
  if (!context.settle_little && bytes_of(sealed.seen) < kMuchOfAChunk) return sealed;
  thread_local Bytes plaintext(kChunkSize);
  const auto gaps = of.overlay.read(chunk * kChunkSize, plaintext);
  // In this order, as everywhere: a publish sets the new base before the overlay drops the published changes.
  const auto replaced = of.overlay.replaced(chunk);
  const auto base = of.image->base_content();
  fill_gaps(context, replaced, *base, chunk, gaps, plaintext);
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
    const std::size_t changed = bytes_without(scratch.read(chunks[i] * kChunkSize, plaintext));
    if (changed < kMuchOfAChunk) return;
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
