#pragma once

#include <map>
#include <optional>

#include "account/parcel_version.h"
#include "session/session_machine.h"

namespace isr {

/// A publish without an answer. If the repository has a head with this number and hash, the publish happened.
struct PendingPublish {
  std::uint64_t n = 0;
  Sha256 hash;
  /// The SessionImage::void_below of each image, by its number, if the publish happened. Images that were begun anew
  /// since are missing, because the publish does not cover their changes.
  std::map<std::uint16_t, std::uint64_t> void_below;
};

struct SessionImage {
  std::uint16_t number = 0;  ///< in the journal
  VersionImage image;        ///< its base: name, role, size, root
  /// Journal records of this image with a smaller moment are void.
  std::uint64_t void_below = 0;
};

/// The contents of the file parcels/ID/session, which is sealed under the device key and replaced atomically at every
/// change; docs/formats/session.md.
struct SessionState {
  std::string parcel_id;
  std::string parcel_name;
  SessionPhase phase = SessionPhase::kCheckedOut;
  std::uint64_t base = 0;  ///< the version that this session began from, or published last
  Sha256 base_hash;        ///< of that version's head
  /// The version whose contents the session continues: base, or the older version that was checked out.
  std::uint64_t content = 0;
  ParcelVersion base_version;  ///< the description of version `content`; discard() goes back to it
  WallTime since;
  std::string hold;  ///< the hold of the session's lock
  LockMode lock_mode = LockMode::kAttended;
  VmSettings vm;
  std::optional<VmStamp> stamp;  ///< of the memory, when suspended
  std::vector<SessionImage> images;
  std::vector<PendingPublish> pending;  ///< publishes without an answer, behind base; any of them may have happened
  bool upload_begun = false;            ///< objects of an unfinished publish may be in the repository already

  SessionImage* find(std::string_view name);
  const SessionImage* find(std::string_view name) const;
  /// The image of a role that is not a disk; a session has at most one.
  const SessionImage* find(ImageRole role) const { return find(to_name(role)); }
  /// The publish without an answer that made this head; nullptr when there is none.
  const PendingPublish* find_pending(const StoredHead& head) const;
  /// True when the session is suspended and no version has its memory yet.
  bool is_upload_due() const;
};

/// The size of the device state while there is none: an image cannot be empty.
inline constexpr std::uint64_t kNoDeviceState = kChunkSize;
/// The version's images with the numbers that they have in the journal; memory and device always have one.
std::vector<SessionImage> number_images(const ParcelVersion& version);

/// nullopt when there is no state file. Error{kCorrupt} when it is damaged, {kUnsupported} when its format is unknown.
std::optional<SessionState> read_session_state(const fs::path& parcel_directory, const Key& device_key,
                                               const std::string& parcel_id);
void write_session_state(const fs::path& parcel_directory, const Key& device_key, const SessionState& state);

/// The state of a parcel that ls and stat show without asking the repository or a daemon.
struct LocalState {
  std::string state;  ///< "checked out", "running", "suspended here", "crashed" (phase running, but no daemon)
  std::uint64_t base = 0;
  WallTime since;
  bool upload_due = false;  ///< as SessionState::is_upload_due()
  bool daemon_alive = false;
};
std::optional<LocalState> local_state(const HostState& host, const ParcelEntry& parcel);

/// Paths of a parcel below the runtime directory; they have a short form of its id.
fs::path mount_directory(const Paths& paths, const std::string& parcel_id);
fs::path control_socket(const Paths& paths, const std::string& parcel_id);
/// The socket on which the parcel's daemon listens, also if it was started with another runtime directory. Without a
/// daemon, the socket on which the next one will listen.
fs::path control_socket(const HostState& host, const ParcelEntry& parcel);
/// Writes the path of the daemon's socket to the file PARCEL/control. Called by the daemon.
void note_control_socket(const HostState& host, const ParcelEntry& parcel);
fs::path vm_directory(const Paths& paths, const std::string& parcel_id);

}  // namespace isr
