#pragma once

#include <map>
#include <optional>

#include "account/parcel_version.h"
#include "session/session_machine.h"

namespace isr {

/// A publish that was begun: if the repository has this head, it was ours.
struct PendingPublish {
  std::uint64_t n = 0;
  Sha256 hash;
  /// As SessionImage::void_below, once published. Without what was begun anew since: that is no change of it.
  std::map<std::uint16_t, std::uint64_t> void_below;
};

struct SessionImage {
  std::uint16_t number = 0;  ///< in the journal
  VersionImage image;        ///< its base: name, role, size, root
  /// Journal records of this image with a smaller moment are void.
  std::uint64_t void_below = 0;
};

/// parcels/ID/session: sealed under the device key, replaced atomically at every
/// change of phase; docs/formats/session.md.
struct SessionState {
  std::string parcel_id;
  std::string parcel_name;
  SessionPhase phase = SessionPhase::kCheckedOut;
  std::uint64_t base = 0;      ///< version that this session began from, or last published
  Sha256 base_hash;            ///< of that version's head
  std::uint64_t content = 0;   ///< the version whose content this continues: base, or the older one that was wanted
  ParcelVersion base_version;  ///< what that says; discard() goes back to it
  WallTime since;
  std::string hold;  ///< of our lock
  LockMode lock_mode = LockMode::kAttended;
  VmSettings vm;
  std::optional<VmStamp> stamp;  ///< of the memory, when suspended
  std::vector<SessionImage> images;
  std::vector<PendingPublish> pending;  ///< publishes without an answer, behind base; any of them may have happened
  bool upload_begun = false;            ///< objects of an unfinished publish may be in the repository already

  SessionImage* find(std::string_view name);
  const SessionImage* find(std::string_view name) const;
  /// The publish without an answer that made this head; nullptr: none.
  const PendingPublish* find_pending(const StoredHead& head) const;
  /// Suspended here, and no version has this memory yet.
  bool is_upload_due() const;
};

/// The size of the device state while there is none: an image cannot be empty.
inline constexpr std::uint64_t kNoDeviceState = kChunkSize;
/// The version's images with the numbers that they have in the journal; memory and device always have one.
std::vector<SessionImage> number_images(const ParcelVersion& version);

std::optional<SessionState> read_session_state(const fs::path& parcel_directory, const Key& device_key,
                                               const std::string& parcel_id);
void write_session_state(const fs::path& parcel_directory, const Key& device_key, const SessionState& state);

/// The state of a parcel that ls and stat show without asking the repository or a daemon.
struct LocalState {
  std::string state;  ///< "checked out", "running", "suspended", "crashed" (no daemon though it should run)
  std::uint64_t base = 0;
  WallTime since;
  bool upload_due = false;  ///< as SessionState says
  bool daemon_alive = false;
};
std::optional<LocalState> local_state(const HostState& host, const ParcelEntry& parcel);

/// Short names of a parcel's places below the runtime directory.
fs::path mount_directory(const Paths& paths, const std::string& parcel_id);
fs::path control_socket(const Paths& paths, const std::string& parcel_id);
/// Where the parcel's daemon listens, also one that was started under another runtime directory; where the next one
/// will when there is none.
fs::path control_socket(const HostState& host, const ParcelEntry& parcel);
/// The daemon says where it listens: in the file PARCEL/control.
void note_control_socket(const HostState& host, const ParcelEntry& parcel);
fs::path vm_directory(const Paths& paths, const std::string& parcel_id);

}  // namespace isr
