#pragma once

#include <functional>

#include "account/account.h"
#include "daemon/handover.h"
#include "machine/vm_host.h"

namespace isr {

/// The session daemon: one process a checked-out parcel. It owns the session, its
/// mount, the VM and the renewal of the lock. Commands reach it through the
/// control socket; protocol.h has their requests and its answers.
///
/// A daemon whose first command is refused because another host has the lock ends with it.
///
/// It carries out one request at a time, but status, console and type at any time. A request that waits is told for
/// what, and gets the answer of the command that ends the session meanwhile if it is the same one.

/// Starts the daemon of a parcel that check_out() checked out, or that a
/// crash left, unless one runs. Returns its control socket. Error{kCancelled} on stop: it is killed.
fs::path start_session_daemon(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop = {});
/// Is the daemon until its session ends or the process is told to end, which block_signals() must have prepared. Calls
/// ready() once its socket takes requests. Its mount and its lock file are free when this returns or throws. Clears
/// `handover` before, so that no further copy of its keys is kept while the session lasts.
void run_session_daemon(Handover& handover, const std::shared_ptr<VmHost>& host, const std::function<void()>& ready);
/// main() of the process that start_session_daemon() starts ("__session").
int session_daemon_main();
inline constexpr const char* kSessionDaemonArgument = "__session";

}  // namespace isr
