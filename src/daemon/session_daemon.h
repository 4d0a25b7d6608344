#pragma once

#include "account/account.h"

namespace isr {

/// The session daemon: one process a checked-out parcel. It owns the session, its
/// mount, the VM and the renewal of the lock; commands reach it through the
/// control socket (control.h):
///
///   command      fields                            what happens
///   status       –                                 the answer of `isr stat --json`, the mount in base64
///   start        network, accelerator, cdrom       boots from the disks, or the CD (the image's path in base64)
///   resume       network, accelerator, prefetch    continues the suspended memory; without one, boots
///   lock         –                                 makes sure that the lock is ours, as start and resume do
///   suspend      upload, message                   memory and disks kept, uploaded, published; the session ends
///   stop         timeout_s, kill, message          the guest shuts down; published; the session ends. Given up when
///                                                  the client goes before the guest is off
///   poweroff     –                                 memory dropped, stays checked out
///   sync         message                           a new version, the session goes on; of a running VM with its memory
///   checkin      message                           published; the session ends
///   discard      –                                 back to the base version
///   console      offset, follow                    progress lines {"console":…,"offset":…}
///   type         text                              types into the serial console
///
/// A daemon whose first command is refused because another host has the lock ends with it.
///
/// One of them at a time; status, console and type any time. One that waits is told for what, and gets the result of
/// the command that ends the session meanwhile if it is the same one. All others also take settings
/// (encode_settings()), and answer kept_settings: those that stay what they were when the daemon began.
/// start, resume and lock take online (the lock is looked at) and steal_reason (it is taken whoever has it); those that
/// publish take them, too, with `publishes`.

/// Starts the daemon of a parcel that Session::create() checked out, or that a
/// crash left, unless one runs. Returns its control socket. Error{kCancelled} on stop: it goes on starting.
fs::path start_session_daemon(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop = {});
/// main() of the process that start_session_daemon() starts ("__session").
int session_daemon_main();
inline constexpr const char* kSessionDaemonArgument = "__session";

}  // namespace isr
