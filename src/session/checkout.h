#pragma once

#include <optional>

#include "account/parcel_version.h"
#include "repository/lock.h"

namespace isr {

/// Checks out: takes the lock, reads the version, makes the directory of the session.
/// Error{kLocked}, {kNotFound}, {kHistory}; {kCancelled} on stop: then the lock is given back within seconds, or
/// stays written down to be given back (held_lock.h).
void check_out(Account& account, const ParcelEntry& parcel, LockMode mode, const VersionChoice& choice,
               const std::optional<std::string>& steal_reason, const std::stop_token& stop = {});
/// Takes back what check_out() just made, when nothing could be started on it. Does nothing while
/// another process has the session, or once something was written in it. The lock as in check_out().
void undo_check_out(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop = {});

}  // namespace isr
