#pragma once

#include "cli/app.h"
#include "daemon/protocol.h"
#include "session/session_state.h"

namespace isr {

/// The names that --network knows.
const std::vector<std::string>& network_modes();

/// The parcel's session on this host, with its daemon running; nullopt when it is
/// not checked out here.
std::optional<fs::path> open_session(const OpenParcel& parcel);
/// As open_session(); Error{kNotFound} "not checked out here".
fs::path require_session(const OpenParcel& parcel);

/// The daemon of a session that is there, also when the one that has just refused a command is ending.
fs::path daemon_of_session(const OpenParcel& parcel, const std::stop_token& stop);

/// The version that a command is to go on from: what -r says, else what follows '@'.
VersionSelector wanted_version(const OpenParcel& parcel, const std::optional<std::string>& option);
/// Session::create() of that version and its daemon; when that cannot start, the lock is given back.
/// Error{kLocked} in the parcel's own name, with what to do.
fs::path take_out(CommandContext& context, OpenParcel& parcel, LockMode mode, const VersionChoice& choice,
                  bool take_lock);
/// --take-lock of a command that publishes a session.
void add_take_lock_of_session(Command& command, bool& take_lock);
/// Runs body, which takes the parcel's lock: with a reason to take it from another host when `take_lock`, or, when the
/// lease of that host has run out, once the user has agreed on the terminal. Without a terminal: Error{kLocked}.
void take_over_if_agreed(CommandContext& context, const OpenParcel& parcel, bool take_lock,
                         const std::function<void(const std::optional<std::string>& steal_reason)>& body);
/// Runs body; a lock that another host holds is reported with the parcel's name.
void phrase_locked(const std::string& name, const std::function<void()>& body);

/// Waits until a daemon that is starting listens, or one that is ending has gone; for 3 s at most, or until stop. Then
/// local_state().
std::optional<LocalState> settled_local_state(const Account& account, const ParcelEntry& parcel,
                                              const std::stop_token& stop);

/// Runs the body of a command; again when the session that it found was ended meanwhile by another command (an
/// interrupted suspend goes on in the daemon, for one), so that it deals with what that one left, and when the daemon
/// ended before it had begun with the request.
int with_session(const OpenParcel& parcel, const std::function<int()>& body);

/// The end of a command that publishes what is not here: it has run to its end before, or never began. Gives back a
/// lock of this host that is left of it.
int report_nothing_here(CommandContext& context, const OpenParcel& parcel);

/// Tells of settings that the daemon keeps though this command has others.
void note_kept_settings(CommandContext& context, const std::vector<std::string>& keys);
/// Shows the progress of a request.
OnProgress<ProgressLine> show_on(Progress& progress);

/// One request to the daemon that changes the session, with the settings of this command, its progress under `title`.
template <class OneRequest>
typename OneRequest::Answer ask_daemon(CommandContext& context, const fs::path& socket, OneRequest request,
                                       const std::string& title) {
  Progress progress(context.out, title);
  request.common.settings = encode_settings(context.paths(), context.config());
  auto answer = ask(socket, request, show_on(progress), context.stop());
  note_kept_settings(context, answer.kept_settings);
  return answer;
}

/// As above, for a request that needs the lock; takes it before as take_over_if_agreed() says. `daemon` finds the
/// socket, anew when the lock is to be taken after a refusal.
template <class OneRequest>
typename OneRequest::Answer ask_with_lock(CommandContext& context, const OpenParcel& parcel,
                                          const std::function<fs::path()>& daemon, OneRequest request, bool take_lock,
                                          const std::string& title) {
  typename OneRequest::Answer answer;
  request.common.online = !parcel.account.offline();
  take_over_if_agreed(context, parcel, take_lock, [&](const auto& steal_reason) {
    request.common.steal_reason = steal_reason;
    answer = ask_daemon(context, daemon(), request, title);
  });
  return answer;
}

/// A path as people and scripts read it: bytes that are no UTF-8 as \xNN.
std::string printable_path(const fs::path& path);
/// Prints what a publish came to; the exit code (0, or 17 for a fork).
int report_publish(CommandContext& context, const std::string& name, const std::string& done,
                   const PublishAnswer& answer);

}  // namespace isr
