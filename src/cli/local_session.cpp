#include "cli/local_session.h"

#include <fmt/format.h>

#include "base/sleep.h"
#include "daemon/control.h"
#include "daemon/session_daemon.h"

namespace isr {
namespace {

constexpr int kSessionAttempts = 3;  // more attempts would mean that another process ends each session at once
constexpr std::chrono::seconds kBeginningOrEnding{3};
constexpr std::chrono::milliseconds kPoll{50};

}  // namespace

std::optional<fs::path> open_session(const OpenParcel& parcel) {
  if (!local_state(parcel.account.host, parcel.entry)) return std::nullopt;
  return start_session_daemon(parcel.account, parcel.entry);
}

fs::path require_session(const OpenParcel& parcel) {
  const auto socket = open_session(parcel);
  if (socket) return *socket;
  throw Error(ErrorKind::kNotFound, fmt::format("{} is not checked out here", parcel.entry.name),
              {fmt::format("isr resume {0}    or    isr checkout {0}", parcel.entry.name)});
}

fs::path running_session(const OpenParcel& parcel) {
  const auto local = local_state(parcel.account.host, parcel.entry);
  if (!local || !local->daemon_alive) {
    throw Error(ErrorKind::kVm, fmt::format("{} is not running here", parcel.entry.name),
                {fmt::format("isr resume {}", parcel.entry.name)});
  }
  return control_socket(parcel.account.host, parcel.entry);
}

std::optional<LocalState> settled_local_state(const HostState& host, const ParcelEntry& parcel,
                                              const std::stop_token& stop) {
  const auto deadline = std::chrono::steady_clock::now() + kBeginningOrEnding;
  for (;;) {
    auto local = local_state(host, parcel);
    if (!local || !local->daemon_alive || control_alive(control_socket(host, parcel))) return local;
    if (std::chrono::steady_clock::now() > deadline || stop.stop_requested()) return local;
    sleep_unless_stopped(kPoll, stop);
  }
}

fs::path daemon_of_session(const OpenParcel& parcel, const std::stop_token& stop) {
  settled_local_state(parcel.account.host, parcel.entry, stop);  // a daemon that has just refused the command is ending
  return start_session_daemon(parcel.account, parcel.entry, stop);
}

int with_session(const OpenParcel& parcel, const std::function<int()>& body) {
  for (int attempt = 1;; ++attempt) {
    const bool was_here = local_state(parcel.account.host, parcel.entry).has_value();
    try {
      return body();
    } catch (const Error& error) {
      // The daemon may have ended while its session stays.
      if (dynamic_cast<const NotBegun*>(&error) != nullptr && attempt < kSessionAttempts) {
        settled_local_state(parcel.account.host, parcel.entry, {});
        continue;
      }
      // kIo: the directory vanished while a daemon opened its log in it.
      const bool session_is_missed =
          error.kind() == ErrorKind::kDaemon || error.kind() == ErrorKind::kNotFound || error.kind() == ErrorKind::kIo;
      if (!session_is_missed || !was_here || attempt == kSessionAttempts) throw;
      if (settled_local_state(parcel.account.host, parcel.entry, {})) throw;
    }
  }
}

}  // namespace isr
