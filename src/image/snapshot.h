#pragma once

#include "image/image.h"
#include "image/journal_overlay.h"
#include "image/scratch_overlay.h"

namespace isr {

/// What sealing an image's changes needs.
struct SealContext {
  ChunkReader& reader;
  PackStore& settled;  ///< durable: sealed objects wait here for their upload
  Key domain_secret;
  unsigned threads = 2;
};

/// A sealed image and the objects that its base does not have.
struct SealedImage {
  TreeRoot root;
  std::vector<ClearRef> new_objects;  ///< may name one twice
};

/// Seals what the frozen layer changes over `base`: chunks, then the pages above
/// them, into the settled store. Fetches only the missing rest of chunks that are
/// partly written. Doing it again after a crash gives the same objects.
SealedImage seal_frozen(const SealContext& context, JournalOverlay& overlay, const TreeRoot& base);

/// Settling: seals chunks whose bytes lie in the journal's oldest segments and
/// lets go of the segments, until the journal is below `target_bytes` or most of
/// the oldest segment is still needed. What cannot be sealed now (chunks that are
/// written all the time, or whose rest cannot be fetched) stays in the journal.
/// `images` pairs each overlay with the image that it lies over.
struct SettleImage {
  JournalOverlay& overlay;
  std::shared_ptr<const Image> image;
};
void settle(const SealContext& context, Journal& journal, std::span<SettleImage> images, std::uint64_t target_bytes);

/// Puts what the VM changed in its memory into the journal overlay that lies
/// below the scratch layer, as sealed chunks; durable on return.
void settle_memory(const SealContext& context, Image& memory, const ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal);

}  // namespace isr
