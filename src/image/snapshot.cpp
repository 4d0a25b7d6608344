#include "image/snapshot.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"

namespace isr {
namespace {

constexpr std::size_t kSealedAtOnce = 1024;  // chunks: bounds memory
constexpr std::uint64_t kMostMoved = 4;      // a segment of which more than 1/4 is needed stays

/// Fills gaps of a chunk buffer from the reference that lies below.
void fill_gaps(ChunkReader& reader, const ChunkRef& below, std::uint64_t chunk, const std::vector<Extent>& gaps,
               MutableBytes out, Priority priority) {
  if (gaps.empty() || below.is_zero()) {
    for (const Extent& gap : gaps) {
      std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(gap.offset - chunk * kChunkSize), gap.length,
                  std::uint8_t{0});
    }
    return;
  }
  const ChunkData data = reader.read_chunk(below, priority);
  for (const Extent& gap : gaps) {
    const auto within = static_cast<std::ptrdiff_t>(gap.offset - chunk * kChunkSize);
    std::copy_n(data->begin() + within, gap.length, out.begin() + within);
  }
}

/// What a source says that does not have an object, or not now.
constexpr bool is_of_a_source(ErrorKind kind) {
  return kind == ErrorKind::kCorrupt || kind == ErrorKind::kOffline || kind == ErrorKind::kTransient;
}

/// Writes what lies in `from` of a chunk, without its gaps.
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

ChunkRef put_sealed(const SealContext& context, ByteView plaintext) {
  const SealedObject sealed = seal_chunk(plaintext, context.domain_secret);
  if (!sealed.ref.is_zero()) context.settled.put(sealed.ref.cid, sealed.bytes);
  return sealed.ref;
}

/// Seals some of the chunks that the frozen layer changes.
void seal_some(const SealContext& context, FrozenChanges& frozen, const TreeRoot& base,
               std::span<const std::uint64_t> chunks, std::map<std::uint64_t, ChunkRef>& changes) {
  std::vector<std::optional<ChunkRef>> after(chunks.size());
  parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
    const std::uint64_t chunk = chunks[i];
    const ChunkRef before = find_chunk(context.reader, base, chunk, Priority::kUpload);
    ChunkRef sealed = frozen.frozen_replaced(chunk).value_or(before);
    if (frozen.frozen_has_bytes(chunk)) {
      thread_local Bytes plaintext(kChunkSize);
      const auto gaps = frozen.read_frozen(chunk * kChunkSize, plaintext);
      fill_gaps(context.reader, sealed, chunk, gaps, plaintext, Priority::kUpload);
      sealed = put_sealed(context, plaintext);
    }
    if (sealed != before) after[i] = sealed;
  });
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (after[i]) changes.emplace(chunks[i], *after[i]);
  }
}

struct Sealed {
  std::vector<PieceAt> seen;
  std::optional<ChunkRef> ref;
};

/// nullopt in `ref`: the rest of the chunk cannot be had now.
Sealed seal_active(const SealContext& context, const SettleImage& of, std::uint64_t chunk) {
  Sealed sealed;
  sealed.seen = of.overlay.pieces_of(chunk);
  if (sealed.seen.empty()) return sealed;  // replaced or forgotten meanwhile
  thread_local Bytes plaintext(kChunkSize);
  const auto gaps = of.overlay.read(chunk * kChunkSize, plaintext);
  ChunkRef below;
  if (!gaps.empty()) {
    // In this order, as everywhere: a publish sets the new base before it drops what the base now holds.
    const auto replaced = of.overlay.replaced(chunk);
    below = replaced ? *replaced : find_chunk(context.reader, of.image->base(), chunk, Priority::kSettling);
  }
  fill_gaps(context.reader, below, chunk, gaps, plaintext, Priority::kSettling);
  sealed.ref = put_sealed(context, plaintext);
  return sealed;
}

/// Seals what the segment holds of one image's bytes.
void settle_segment(const SealContext& context, const SettleImage& of, const SegmentPtr& segment) {
  const std::vector<std::uint64_t> all = of.overlay.chunks_with_bytes(segment);
  for (std::span<const std::uint64_t> rest = all; !rest.empty();) {
    const auto chunks = rest.first(std::min(rest.size(), kSealedAtOnce));
    rest = rest.subspan(chunks.size());
    std::vector<Sealed> sealed(chunks.size());
    parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
      try {
        sealed[i] = seal_active(context, of, chunks[i]);
      } catch (const Error& error) {
        // The chunk stays in the journal, where it can be read as before; others can be settled.
        if (!is_of_a_source(error.kind())) throw;
        if (error.kind() == ErrorKind::kCorrupt) log::warn("settling {}: {}", of.image->name(), error.what());
      }
    });
    // The objects are durable before a record can say that they replace the bytes.
    context.settled.sync();
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (sealed[i].ref) of.overlay.replace_chunk(chunks[i], *sealed[i].ref, sealed[i].seen);
    }
  }
}

}  // namespace

SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const TreeRoot& base) {
  const DirtyChunks dirty = frozen.frozen_chunks();
  const std::vector<std::uint64_t> chunks(dirty.chunks.begin(), dirty.chunks.end());
  std::map<std::uint64_t, ChunkRef> changes;
  for (std::span<const std::uint64_t> rest = chunks; !rest.empty();) {
    const auto some = rest.first(std::min(rest.size(), kSealedAtOnce));
    seal_some(context, frozen, base, some, changes);
    rest = rest.subspan(some.size());
  }
  SealedImage result;
  for (const auto& [chunk, ref] : changes) {
    if (!ref.is_zero()) result.new_objects.push_back({ref.cid, ref.length});
  }
  const auto emit = [&](const SealedObject& page) {
    context.settled.put(page.ref.cid, page.bytes);
    result.new_objects.push_back({page.ref.cid, page.ref.length});
  };
  result.root = update_tree(context.reader, base, changes, context.domain_secret, emit, dirty.zeros);
  context.settled.sync();
  return result;
}

std::uint64_t settle_oldest(const SealContext& context, Journal& journal, std::span<SettleImage> images) {
  SegmentPtr segment = journal.oldest();
  if (!segment) return 0;
  std::uint64_t live = 0;
  for (const SettleImage& image : images) {
    if (image.overlay.is_frozen()) return 0;  // nothing of it can be replaced now
    settle_segment(context, image, segment);
    live += image.overlay.live_bytes(segment);
  }
  // Each move frees several times what it writes, so that settling costs a bounded share of what was written.
  if (live * kMostMoved > journal.size_of(segment)) return 0;
  for (const SettleImage& image : images) image.overlay.move_records(segment);
  segment.reset();  // ours would keep it
  return journal.collect();
}

void settle_memory(const SealContext& context, Image& memory, ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal) {
  const auto dirty = scratch.dirty_chunks();
  const std::vector<std::uint64_t> chunks(dirty.begin(), dirty.end());
  std::vector<std::optional<ChunkRef>> refs(chunks.size());
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
  context.settled.sync();
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
