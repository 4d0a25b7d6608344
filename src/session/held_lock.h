#pragma once

#include <optional>

#include "account/account.h"
#include "base/file.h"
#include "base/file_lock.h"

/// Locks that this host takes in repositories. Each hold is written down before it is taken, and until a
/// session has it or it was given back: STATE/REPOSITORY-ID/USER/locks/PARCEL-ID.HOLD, an empty file. So what a
/// killed command took, or what could not be given back for want of a network, is given back by the next command or
/// daemon that reaches the repository.
namespace isr {

/// The lock file that one process at a time holds while it works on a parcel here, or takes its lock. Makes the
/// parcel's directory. Error{kVm} when another process has it, and does not end within 3 s.
FileLock take_parcel(const HostState& host, const ParcelEntry& parcel);
/// As take_parcel(), but nullopt when another process has it.
std::optional<FileLock> await_parcel(const HostState& host, const ParcelEntry& parcel);

/// take_parcel() for a command that leaves nothing here: its end removes the directory, unless more lies in it.
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

/// Takes the parcel's lock for a new hold, which stays written down. The caller has take_parcel(). Errors as
/// ParcelLock::acquire(), or, with a reason, steal(); {kCancelled} on stop.
LockRecord take_lock(const Account& account, const ParcelEntry& parcel, LockMode mode, const LockBase& base,
                     const std::optional<std::string>& steal_reason, const std::stop_token& stop = {});
/// A session's description names the hold from now on.
void forget_lock(const HostState& host, const std::string& parcel_id, const std::string& hold);
/// Writes down that the hold is to be given back; durable.
void note_lock(const HostState& host, const std::string& parcel_id, const std::string& hold);
/// The result of giving a lock back.
enum class LockReturn {
  kDone,
  kLater,  ///< the repository cannot be reached; the hold stays written down
  kMoved,  ///< the hold has the lock under another host id (ParcelLock::release()), so it stays, and stays written down
};
/// "done", "later", "moved".
std::string_view to_name(LockReturn how) noexcept;
/// Releases what is written down. kLater also on stop.
/// An interrupted command (stop is requested) gives up after 3 s.
LockReturn give_back_lock(const Account& account, const std::string& parcel_id, const std::string& hold,
                          const std::stop_token& stop = {});

/// To be called when an account was opened: gives back what is written down and neither a session's nor being taken
/// this moment. Never fails; does nothing offline.
void give_back_left_locks(const Account& account);
/// Something is written down to be given back.
bool has_lock_to_give_back(const HostState& host, const ParcelEntry& parcel);
/// Releases the parcel's lock when this host holds it without a session. Says whether it did. Error{kOffline} unless
/// online.
bool give_back_orphaned_lock(const Account& account, const ParcelEntry& parcel);

/// Takes a session's directory away, at once, so that no half of a session is ever found; by the process that has
/// take_parcel(). It is left to remove_ended_directories().
void take_directory_away(const fs::path& directory);
/// Deletes what an earlier end of a session in this directory has left. Never fails.
void remove_ended_directories(const fs::path& directory);

}  // namespace isr
