#pragma once

#include "cli/context.h"
#include "session/session_state.h"

/// Finds the session of a parcel on this host, and its daemon.
namespace isr {

/// Starts the daemon of the parcel's session on this host if necessary, and returns its control socket. nullopt when
/// the parcel is not checked out here.
std::optional<fs::path> open_session(const OpenParcel& parcel);
/// As open_session(), but Error{kNotFound} "not checked out here".
fs::path require_session(const OpenParcel& parcel);
/// The control socket of a daemon that already runs; Error{kVm} "not running here".
fs::path running_session(const OpenParcel& parcel);

/// The control socket of a session that exists. Starts a new daemon when the one that has just refused a command is
/// ending.
fs::path daemon_of_session(const OpenParcel& parcel, const std::stop_token& stop);

/// Waits until a starting daemon listens or an ending one is gone, for 3 s at most or until stop. Then returns
/// local_state().
std::optional<LocalState> settled_local_state(const HostState& host, const ParcelEntry& parcel,
                                              const std::stop_token& stop);

/// Runs the body of a command. Runs it again when another command ended the session meanwhile (for example an
/// interrupted suspend that goes on in the daemon), so that it sees the new state, and when the daemon ended before it
/// had begun with the request.
int with_session(const OpenParcel& parcel, const std::function<int()>& body);

}  // namespace isr
