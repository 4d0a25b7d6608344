#pragma once

#include <chrono>

#include "account/parcel_version.h"
#include "image/boot_pack.h"
#include "session/session_objects.h"

namespace isr {

/// Returns how many pages a boot pack may have so that its upload takes ten seconds at most, but never fewer than 1024.
/// The speed of the link follows from an upload of `uploaded_bytes` that took `took`; pages are assumed to compress to
/// half their size. Returns kMaxBootPages when `took` is below 1 s, which does not show the link's speed.
std::size_t affordable_boot_pages(std::uint64_t uploaded_bytes, std::chrono::duration<double> took);

/// A boot pack whose objects are in the settled store, ready to be sent.
struct SealedBootPack {
  TreeRoot root;
  std::map<Cid, std::uint32_t> objects;  ///< each with its stored length in bytes; without those that it shares
};

/// Makes the boot pack of a version that is about to be published (docs/formats/boot-pack.md).
class BootPackMaker {
 public:
  /// Both must outlive this.
  BootPackMaker(const Identity& identity, SessionObjects& objects);
  BootPackMaker(const BootPackMaker&) = delete;
  BootPackMaker& operator=(const BootPackMaker&) = delete;

  /// Makes a pack of the first `most` pages of `order`, or of `own` when `order` has no pages. The pack lists the
  /// chunks of both. BootPlace::image is a position in packed_image_names(version). The objects are kept until
  /// SettledSweep::release(). Chunks of `published`, the pack of a version in the repository (may be null), are shared
  /// where at least half of their pages are wanted again and have not changed; these pages do not count in `most`.
  ///
  /// Absence: nullopt when neither order has a page.
  /// Errors:  {kBug} a place is in an image that the version does not have; else as ChunkReader and PackStore.
  std::optional<SealedBootPack> make(BootOrder order, const BootOrder& own, std::size_t most,
                                     const ParcelVersion& version, const TreeRoot* published = nullptr);

 private:
  struct Pages;
  struct Shared;
  Pages read_pages(const std::vector<BootPlace>& wanted, const std::vector<std::unique_ptr<Image>>& images) const;
  Shared share(const TreeRoot& published, const std::vector<std::string>& names, std::size_t most, Pages& pages) const;
  TreeRoot seal(ByteView bytes, std::span<const ChunkRef> shared, std::map<Cid, std::uint32_t>& objects);

  const Identity& identity_;
  SessionObjects& objects_;
};

}  // namespace isr
