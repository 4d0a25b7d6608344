#pragma once

#include "image/image.h"
#include "image/journal_overlay.h"
#include "image/scratch_overlay.h"
#include "image/settled_sweep.h"

namespace isr {

/// What sealing an image's changes needs.
struct SealContext {
  ChunkReader& reader;
  PackStore& settled;  ///< durable: sealed objects wait here for their upload
  SecretKey domain_secret;
  unsigned threads = 2;
  SettledSweep* sweep = nullptr;  ///< keeps what is sealed; null: nothing is swept before a record names it
  std::stop_token stop{};         ///< Error{kCancelled} once requested
};

/// A sealed image and the objects that its base does not have.
struct SealedImage {
  TreeRoot root;
  std::vector<ClearRef> new_objects;  ///< may name one twice
  std::vector<SealedChunk> chunks;    ///< that the frozen layer has something of; without those that it makes all zero
};

/// Seals what the frozen layer changes over `base`: chunks, then the pages above
/// them, into the settled store. Fetches only the missing rest of chunks that are
/// partly written. Doing it again after a crash gives the same objects.
SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const TreeRoot& base);

/// An overlay of the journal with the image that lies below it.
struct SettleImage {
  JournalOverlay& overlay;
  std::shared_ptr<const Image> image;
};
/// One step of settling: lets go of segments that nothing needs any more; when there are none, of the one
/// with the most garbage, whose chunks it seals. Returns the bytes that this gains; 0 when there is nothing to
/// gain now: most of every segment is needed, by chunks that are written all the time or whose rest cannot be
/// fetched. A snapshot may be going on.
std::uint64_t settle_some(const SealContext& context, Journal& journal, std::span<const SettleImage> images);

/// Puts what the VM changed in its memory into the journal overlay that lies
/// below the scratch layer; durable on return. As sealed chunks; of a chunk whose rest `memory`
/// cannot read, as the bytes that were changed. A guest stands still meanwhile, so that `memory`
/// should have a reader that asks no network.
void settle_memory(const SealContext& context, Image& memory, ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal);

}  // namespace isr
