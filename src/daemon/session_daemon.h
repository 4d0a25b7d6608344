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
/// If the first command is refused because another host has the lock, the daemon ends, too.
///
/// It carries out one request at a time, but status, console and type at any time. It tells a waiting request for which
/// command it waits. If that command ends the session and is the same as the waiting one, both get its answer.

/// Starts the daemon of a parcel that check_out() checked out, also after a crash, unless it runs already. Returns its
/// control socket. On stop it kills the daemon and throws Error{kCancelled}.
fs::path start_session_daemon(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop = {});
/// Runs the daemon until its session ends or the process is told to end. block_signals() must have been called. Calls
/// ready() once the socket takes requests. The mount and the lock file are free when this returns or throws. Clears
/// `handover` before ready(), so that no further copy of its keys is kept while the session lasts.
void run_session_daemon(Handover& handover, const std::shared_ptr<VmHost>& host, const std::function<void()>& ready);
/// main() of the process that start_session_daemon() starts ("__session").
int session_daemon_main();
inline constexpr const char* kSessionDaemonArgument = "__session";

}  // namespace isr
