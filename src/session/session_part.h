#pragma once

#include "session/session.h"

namespace isr {

/// An image of a session with the overlay that its changes stand in.
struct Session::Part {
  std::uint16_t number = 0;
  std::string name;
  std::shared_ptr<JournalOverlay> overlay;
  std::shared_ptr<Image> image;
};

struct Session::Publication {
  ParcelVersion version;
  std::map<Cid, std::uint32_t> objects;  ///< with their length
  std::map<std::uint16_t, std::uint64_t> void_below;
  std::vector<Part*> parts;
  std::uint64_t disk_writes = 0;                 ///< when it was frozen
  bool scratch_is_frozen = false;                ///< memory's changes are those of the scratch layer
  MemoryWitness memory;                          ///< in that case
  std::chrono::duration<double> upload_time{0};  ///< of the objects, without a boot pack
  std::uint64_t upload_bytes = 0;                ///< the same
};

/// The size of the device state while there is none: an image cannot be empty.
inline constexpr std::uint64_t kNoDeviceState = kChunkSize;

/// The version's images with the numbers that they have in the journal; memory and device always have one.
std::vector<SessionImage> number_images(const ParcelVersion& version);

}  // namespace isr
