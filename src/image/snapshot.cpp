#include "image/snapshot.h"

#include "base/thread_pool.h"

namespace isr {
namespace {

/// Fills gaps of a chunk buffer from the reference that lies below.
void fill_gaps(ChunkReader& reader, const ChunkRef& below, std::uint64_t chunk, const std::vector<Extent>& gaps,
               MutableBytes out) {
  if (gaps.empty() || below.is_zero()) {
    for (const Extent& gap : gaps) std::fill_n(out.begin() + (gap.offset - chunk * kChunkSize), gap.length, 0);
    return;
  }
  const ChunkData data = reader.read_chunk(below, Priority::kUpload);
  for (const Extent& gap : gaps) {
    const auto within = static_cast<std::ptrdiff_t>(gap.offset - chunk * kChunkSize);
    std::copy_n(data->begin() + within, gap.length, out.begin() + within);
  }
}

ChunkRef put_sealed(const SealContext& context, ByteView plaintext) {
  const SealedObject sealed = seal_chunk(plaintext, context.domain_secret);
  if (!sealed.ref.is_zero()) context.settled.put(sealed.ref.cid, sealed.bytes);
  return sealed.ref;
}

}  // namespace

SealedImage seal_frozen(const SealContext& context, JournalOverlay& overlay, const TreeRoot& base) {
  const auto dirty = overlay.frozen_chunks();
  const std::vector<std::uint64_t> chunks(dirty.begin(), dirty.end());
  std::vector<ChunkRef> before(chunks.size());
  std::vector<ChunkRef> after(chunks.size());
  parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
    const std::uint64_t chunk = chunks[i];
    before[i] = find_chunk(context.reader, base, chunk, Priority::kUpload);
    const auto replaced = overlay.frozen_replaced(chunk);
    const ChunkRef below = replaced.value_or(before[i]);
    if (!overlay.frozen_has_bytes(chunk)) {
      after[i] = below;
      return;
    }
    thread_local Bytes plaintext;
    plaintext.resize(kChunkSize);
    const auto gaps = overlay.read_frozen(chunk * kChunkSize, plaintext);
    fill_gaps(context.reader, below, chunk, gaps, plaintext);
    after[i] = put_sealed(context, plaintext);
  });

  SealedImage result;
  std::map<std::uint64_t, ChunkRef> changes;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (after[i] == before[i]) continue;
    changes.emplace(chunks[i], after[i]);
    if (!after[i].is_zero()) result.new_objects.push_back(after[i].cid);
  }
  result.root = update_tree(context.reader, base, changes, context.domain_secret, [&](const SealedObject& page) {
    context.settled.put(page.ref.cid, page.bytes);
    result.new_objects.push_back(page.ref.cid);
  });
  context.settled.sync();
  return result;
}

void settle(const SealContext& context, Journal& journal, std::span<SettleImage> images, std::uint64_t target_bytes) {
  while (journal.size_bytes() > target_bytes) {
    SegmentPtr segment = journal.oldest();
    if (!segment) return;
    for (SettleImage& image : images) {
      const auto dirty = image.overlay.chunks_with_bytes(segment);
      const std::vector<std::uint64_t> chunks(dirty.begin(), dirty.end());
      std::vector<ChunkRef> refs(chunks.size());
      std::vector<std::vector<PieceAt>> seen(chunks.size());
      parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
        thread_local Bytes plaintext;
        plaintext.resize(kChunkSize);
        seen[i] = image.overlay.pieces_of(chunks[i]);
        const auto gaps = image.overlay.read(chunks[i] * kChunkSize, plaintext);
        const auto replaced = image.overlay.replaced(chunks[i]);
        const ChunkRef below =
            replaced ? *replaced : find_chunk(context.reader, image.base, chunks[i], Priority::kUpload);
        fill_gaps(context.reader, below, chunks[i], gaps, plaintext);
        refs[i] = put_sealed(context, plaintext);
      });
      // The objects are durable before a record can say that they replace the bytes.
      context.settled.sync();
      for (std::size_t i = 0; i < chunks.size(); ++i) image.overlay.replace_chunk(chunks[i], refs[i], seen[i]);
      image.overlay.rewrite_records(segment);
    }
    segment.reset();  // ours would keep it
    if (journal.collect() == 0) return;  // somebody writes faster than we settle, or a snapshot is going on: later
  }
}

void settle_memory(const SealContext& context, Image& memory, const ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal) {
  const auto dirty = scratch.dirty_chunks();
  const std::vector<std::uint64_t> chunks(dirty.begin(), dirty.end());
  std::vector<ChunkRef> refs(chunks.size());
  parallel_for(chunks.size(), context.threads, [&](std::size_t i) {
    thread_local Bytes plaintext;
    plaintext.assign(kChunkSize, 0);
    memory.read(chunks[i] * kChunkSize, plaintext);
    refs[i] = put_sealed(context, plaintext);
  });
  context.settled.sync();
  for (std::size_t i = 0; i < chunks.size(); ++i) below.set_chunk(chunks[i], refs[i]);
  journal.sync();
}

}  // namespace isr
