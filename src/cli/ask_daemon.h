#pragma once

#include "cli/take_lock.h"
#include "daemon/protocol.h"

/// How a command sends requests to a session's daemon.
namespace isr {

/// Tells the user which settings the daemon keeps although this command has other values.
void note_kept_settings(CommandContext& context, const std::vector<std::string>& keys);
/// Shows the progress of a request.
OnProgress<ProgressLine> show_on(Progress& progress);

/// Sends one request that changes the session, with the settings of this command. Shows its progress under `title`.
template <class OneRequest>
typename OneRequest::Answer ask_daemon(CommandContext& context, const fs::path& socket, OneRequest request,
                                       const std::string& title) {
  Progress progress(context.out, title);
  request.common.settings = encode_settings(context.paths(), context.config());
  auto answer = ask(socket, request, show_on(progress), context.stop());
  note_kept_settings(context, answer.kept_settings);
  return answer;
}

/// As above, for a request that needs the lock. Takes the lock before, as take_over_if_agreed() says. `daemon` finds
/// the socket; it is called again when the lock must be taken after a refusal.
template <class OneRequest>
typename OneRequest::Answer ask_with_lock(CommandContext& context, const OpenParcel& parcel,
                                          const std::function<fs::path()>& daemon, OneRequest request, bool take_lock,
                                          const std::string& title) {
  typename OneRequest::Answer answer;
  request.common.online = !parcel.account.remote.offline();
  take_over_if_agreed(context, parcel, take_lock, [&](const auto& steal_reason) {
    request.common.steal_reason = steal_reason;
    answer = ask_daemon(context, daemon(), request, title);
  });
  return answer;
}

}  // namespace isr
