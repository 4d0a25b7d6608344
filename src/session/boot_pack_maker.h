#pragma once

#include <chrono>

#include "image/boot_pack.h"
#include "image/first_touches.h"
#include "session/session_images.h"

namespace isr {

/// Images over what a suspended session has kept, for a VM whose writes are thrown away. Data that is not on
/// this host cannot be read: Error{kOffline}. Must not outlive the session.
struct RehearsalImages {
  std::vector<std::shared_ptr<Image>> disks;
  std::shared_ptr<Image> memory;
  std::shared_ptr<FirstTouches> touches;  ///< of all of them
};
/// Of suspended memory that was never published: what a rehearsal runs on. nullopt when there is none.
std::optional<RehearsalImages> rehearsal_images(const StateFile& state, const SessionImages& images,
                                                const SessionObjects& objects);

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
  /// All of these must outlive this.
  BootPackMaker(const Identity& identity, const StateFile& state, SessionObjects& objects);
  BootPackMaker(const BootPackMaker&) = delete;
  BootPackMaker& operator=(const BootPackMaker&) = delete;

  /// A pack of the pages of `order`, `most` of them; without any there, of those of `own`. The chunks are those of
  /// both. nullopt: neither names a page. The objects are kept until SettledSweep::release(). Errors as ChunkReader and
  /// PackStore.
  std::optional<SealedBootPack> make(BootOrder order, const BootOrder& own, std::size_t most,
                                     const ParcelVersion& version);

 private:
  Bytes collect(BootOrder order, const ParcelVersion& version) const;
  TreeRoot seal(ByteView bytes, std::map<Cid, std::uint32_t>& objects);

  const Identity& identity_;
  const StateFile& state_;
  SessionObjects& objects_;
};

}  // namespace isr
