#pragma once

#include "cli/context.h"
#include "session/session_state.h"

/// How a command finds the session of a parcel on this host, and its daemon.
namespace isr {

/// The parcel's session on this host, with its daemon running; nullopt when it is
/// not checked out here.
std::optional<fs::path> open_session(const OpenParcel& parcel);
/// As open_session(); Error{kNotFound} "not checked out here".
fs::path require_session(const OpenParcel& parcel);
/// The control socket of a daemon that runs already; Error{kVm} "not running here".
fs::path running_session(const OpenParcel& parcel);

/// The daemon of a session that is there, also when the one that has just refused a command is ending.
fs::path daemon_of_session(const OpenParcel& parcel, const std::stop_token& stop);

/// Waits until a daemon that is starting listens, or one that is ending has gone; for 3 s at most, or until stop. Then
/// local_state().
std::optional<LocalState> settled_local_state(const HostState& host, const ParcelEntry& parcel,
                                              const std::stop_token& stop);

/// Runs the body of a command; again when the session that it found was ended meanwhile by another command (an
/// interrupted suspend goes on in the daemon, for one), so that it deals with what that one left, and when the daemon
/// ended before it had begun with the request.
int with_session(const OpenParcel& parcel, const std::function<int()>& body);

}  // namespace isr
