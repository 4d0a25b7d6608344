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
SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const TreeRoot& base);

/// One step of settling: seals the chunks whose bytes lie in the journal's oldest
/// segment and lets go of it. Returns the bytes freed; 0 when there is nothing to
/// gain now, because most of the segment is still needed (chunks that are written
/// all the time, or whose rest cannot be fetched), because somebody reads from it,
/// or because a snapshot is going on. `images` pairs each overlay with the image
/// that it lies over.
struct SettleImage {
  JournalOverlay& overlay;
  std::shared_ptr<const Image> image;
};
std::uint64_t settle_oldest(const SealContext& context, Journal& journal, std::span<SettleImage> images);

/// Puts what the VM changed in its memory into the journal overlay that lies
/// below the scratch layer; durable on return. As sealed chunks; of a chunk whose rest `memory`
/// cannot read, as the bytes that were changed. A guest stands still meanwhile, so that `memory`
/// should have a reader that asks no network.
void settle_memory(const SealContext& context, Image& memory, ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal);

}  // namespace isr
