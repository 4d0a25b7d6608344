#pragma once

#include "image/image.h"
#include "image/journal_overlay.h"
#include "image/scratch_overlay.h"
#include "image/settled_sweep.h"

namespace isr {

/// The things that sealing an image's changes needs.
struct SealContext {
  ChunkReader& reader;
  PackStore& settled;  ///< durable: sealed objects wait here for their upload
  SecretKey domain_secret;
  unsigned threads = 2;
  SettledSweep* sweep = nullptr;  ///< keeps sealed objects; null: nothing is swept before a record names them
  std::stop_token stop{};         ///< Error{kCancelled} once requested
};

/// A sealed image, and its objects that the base does not have.
struct SealedImage {
  TreeRoot root;
  std::vector<ClearRef> new_objects;  ///< may have duplicates
  std::vector<SealedChunk> chunks;  ///< those that the frozen layer has changed, except the ones that it makes all zero
};

/// Seals the changes of the frozen layer over `base`: chunks, then the pages above them, into the settled store.
/// Fetches only the missing rest of partly written chunks. Repeating it after a crash gives the same objects.
SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const TreeRoot& base);

/// An overlay of the journal and the image below it.
struct SettleImage {
  JournalOverlay& overlay;
  std::shared_ptr<const Image> image;
};
/// One step of settling: frees segments that nothing needs any more. If there are none, seals the chunks of the segment
/// with the most garbage. Returns the number of bytes that this gains; 0 when there is nothing to gain now, because
/// most of every segment is needed by chunks that are constantly written or whose rest cannot be fetched. A snapshot
/// may run at the same time.
std::uint64_t settle_some(const SealContext& context, Journal& journal, std::span<const SettleImage> images);

/// Puts the VM's changes of its memory into the journal overlay below the scratch layer; durable on return. They become
/// sealed chunks, except where `memory` cannot read the rest of a chunk: there only the changed bytes are stored. The
/// guest is paused meanwhile, so the reader of `memory` should not use the network.
void settle_memory(const SealContext& context, Image& memory, ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal);

}  // namespace isr
