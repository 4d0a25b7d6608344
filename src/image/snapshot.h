#pragma once

#include "image/image.h"
#include "image/journal_overlay.h"
#include "image/scratch_overlay.h"
#include "image/settled_sweep.h"

namespace isr {

/// The things that sealing an image's changes needs.
struct SealContext {
  /// Sealing should fetch nothing, so this should find only what is on this host.
  std::shared_ptr<ChunkReader> reader;
  PackStore& settled;  ///< durable: sealed objects wait here for their upload
  SecretKey domain_secret;
  unsigned threads = 2;
  SettledSweep* sweep = nullptr;  ///< keeps sealed objects; null: nothing is swept before a record names them
  std::stop_token stop{};         ///< Error{kCancelled} once requested
  bool settle_little = true;      ///< settling: also the chunks of which little changed
  bool may_patch = true;          ///< false: changes go into the tree alone, so what that takes may be fetched
  /// May fetch; null: like `reader`. Used only when an image has more patches than it may have, or may have none.
  std::shared_ptr<ChunkReader> fetching{};
};

/// A sealed image, and its objects that the base does not have.
struct SealedImage {
  PatchedTree content;
  TreeRoot unfolded;                  ///< the tree before it took patches of earlier versions; mostly that of `content`
  std::vector<ClearRef> new_objects;  ///< may have duplicates
  std::vector<SealedChunk>
      chunks;  ///< those that were sealed whole, except the ones that the frozen layer makes all zero
  std::vector<std::uint64_t> patched;  ///< chunks of which the new patch has bytes, but for the same exception
};

/// Seals the changes of the frozen layer over `base` into the settled store: chunks of which much changed, with the
/// pages above them, and a patch with the changed bytes of the others; several, when one has no room. Whatever needs
/// something that the reader does not have goes into the patch, so nothing is fetched but with `fetching`. Repeating it
/// after a crash gives the same objects.
SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const BaseContent& base);
SealedImage seal_frozen(const SealContext& context, FrozenChanges& frozen, const PatchedTree& base);

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
/// sealed chunks where much changed. Where little changed, or `memory` cannot read the rest of a chunk, only the
/// changed bytes are stored. The guest is paused meanwhile, so the reader of `memory` should not use the network.
void settle_memory(const SealContext& context, Image& memory, ScratchOverlay& scratch, JournalOverlay& below,
                   Journal& journal);

}  // namespace isr
