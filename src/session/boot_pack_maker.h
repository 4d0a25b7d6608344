#pragma once

#include <chrono>

#include "account/parcel_version.h"
#include "image/boot_pack.h"
#include "session/session_objects.h"

namespace isr {

/// Pages for which uploading takes some seconds more, as the link was found to be: it took `took` for
/// `uploaded_bytes`. They compress to half, mostly.
std::size_t affordable_boot_pages(std::uint64_t uploaded_bytes, std::chrono::duration<double> took);

/// A boot pack, settled and ready to be sent.
struct SealedBootPack {
  TreeRoot root;
  std::map<Cid, std::uint32_t> objects;  ///< with their length
};

/// Makes the boot pack of a version that is about to be published (docs/formats/boot-pack.md).
class BootPackMaker {
 public:
  /// Both must outlive this.
  BootPackMaker(const Identity& identity, SessionObjects& objects);
  BootPackMaker(const BootPackMaker&) = delete;
  BootPackMaker& operator=(const BootPackMaker&) = delete;

  /// A pack of the pages of `order`, `most` of them; without any there, of those of `own`. The chunks are those of
  /// both. nullopt: neither names a page. BootPlace::image is a position in packed_image_names(version). The objects
  /// are kept until SettledSweep::release(). Error{kBug}: a place is in an image that the version does not have; else
  /// as ChunkReader and PackStore.
  std::optional<SealedBootPack> make(BootOrder order, const BootOrder& own, std::size_t most,
                                     const ParcelVersion& version);

 private:
  Bytes collect(BootOrder order, const ParcelVersion& version) const;
  TreeRoot seal(ByteView bytes, std::map<Cid, std::uint32_t>& objects);

  const Identity& identity_;
  SessionObjects& objects_;
};

}  // namespace isr
