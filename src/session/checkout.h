#pragma once

#include <optional>

#include "account/parcel_version.h"
#include "repository/lock.h"

namespace isr {

/// Checks a parcel out: takes its lock, reads the chosen version and makes the session's directory. With a
/// `steal_reason`, takes the lock from another host.
///
/// Errors:  {kLocked}; {kNotFound}; {kHistory}; {kOffline}; {kVm} the parcel is checked out or in use on this host;
///          {kUnsupported} the repository is read-only; {kCorrupt} the directory holds the journal of a session without
///          its state file; {kCancelled} on stop. After {kCancelled} the lock is given back within seconds, or its note
///          stays, so that a later command gives it back (held_lock.h).
void check_out(Account& account, const ParcelEntry& parcel, LockMode mode, const VersionChoice& choice,
               const std::optional<std::string>& steal_reason, const std::stop_token& stop = {});
/// Undoes a check_out() when no machine could be started on it: removes the session's directory and gives the lock
/// back, as check_out() does on stop. Does nothing while another process has the session, or when something was written
/// in it.
void undo_check_out(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop = {});

}  // namespace isr
