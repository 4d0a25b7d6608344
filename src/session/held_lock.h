#pragma once

#include <optional>

#include "account/account.h"
#include "base/file.h"
#include "base/file_lock.h"

/// The locks that this host takes in repositories. Each hold has a note, the empty file
/// STATE/REPOSITORY-ID/USER/locks/PARCEL-ID.HOLD. It is written before the lock is taken, and removed once a session's
/// state file names the hold or the lock was given back. From the notes, the next command or daemon that reaches the
/// repository gives back the locks of killed commands, and locks that could not be given back without a network.
namespace isr {

/// Takes the lock file of a parcel's directory, which one process at a time holds while it works on the parcel on this
/// host or takes its lock in the repository. Makes the directory. Error{kVm} when another process still has the file
/// after 3 s.
FileLock take_parcel(const HostState& host, const ParcelEntry& parcel);
/// Like take_parcel(), but returns nullopt when another process still has the file after 3 s.
std::optional<FileLock> await_parcel(const HostState& host, const ParcelEntry& parcel);

/// Owns the result of take_parcel() for a command that leaves nothing on this host. The destructor removes the parcel's
/// directory, unless it has more than the lock file.
class TakenParcel {
 public:
  TakenParcel(const HostState& host, const ParcelEntry& parcel);
  ~TakenParcel();
  TakenParcel(const TakenParcel&) = delete;
  TakenParcel& operator=(const TakenParcel&) = delete;

 private:
  fs::path directory_;
  FileLock flock_;
};

/// Takes the parcel's lock in the repository under a new hold, whose note stays. The caller must own the result of
/// take_parcel(). Errors as ParcelLock::acquire(), or with a reason as steal(); {kCancelled} on stop.
LockRecord take_lock(const Account& account, const ParcelEntry& parcel, LockMode mode, const LockBase& base,
                     const std::optional<std::string>& steal_reason, const std::stop_token& stop = {});
/// Removes the hold's note. Call once a session's state file names the hold, or once the lock was given back.
void forget_lock(const HostState& host, const std::string& parcel_id, const std::string& hold);
/// Writes the hold's note, which says that the lock is to be given back; durable.
void note_lock(const HostState& host, const std::string& parcel_id, const std::string& hold);
/// The result of giving a lock back.
enum class LockReturn {
  kDone,
  kLater,  ///< the repository cannot be reached; the note stays
  kMoved,  ///< the hold belongs to another host id (ParcelLock::release()), so the lock and its note stay
};
/// Returns "done", "later" or "moved".
std::string_view to_name(LockReturn how) noexcept;
/// Releases the lock and removes its note. When stop is requested, before or meanwhile, because the command is
/// interrupted, tries for 3 s from then on; kLater when that does not suffice.
LockReturn give_back_lock(const Account& account, const std::string& parcel_id, const std::string& hold,
                          const std::stop_token& stop = {});

/// Gives back each lock that has a note. Skips parcels whose lock file another process has; a later call gives those
/// back. The note of a session's hold is only removed. Call when an account was opened. Never fails; does nothing
/// offline.
void give_back_left_locks(const Account& account);
/// Whether a hold of this parcel has a note.
bool has_lock_to_give_back(const HostState& host, const ParcelEntry& parcel);
/// Releases the parcel's lock when this host holds it without a session, and returns whether it did. Error{kOffline}
/// when there is no connection to the repository.
bool give_back_orphaned_lock(const Account& account, const ParcelEntry& parcel);

/// Renames a session's directory in one step, so that no process ever finds half of a session. The caller must own the
/// result of take_parcel(). remove_ended_directories() deletes the renamed directory later.
void take_directory_away(const fs::path& directory);
/// Deletes directories that take_directory_away() has renamed, also those of an earlier session. Never fails.
void remove_ended_directories(const fs::path& directory);

}  // namespace isr
