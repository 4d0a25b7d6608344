#pragma once

#include <atomic>

#include "daemon/command_progress.h"
#include "daemon/protocol.h"
#include "machine/machine.h"

namespace isr {

/// The client of a request.
struct CommandClient {
  SendProgress send;
  std::stop_token stop;  ///< requested when it has gone
};

/// Carries out the requests that change a session: all but status, console and type.
///
/// Threads: one at a time, and nothing else uses the session or the machine meanwhile.
class SessionCommands {
 public:
  /// The daemon's objects on which the commands work; they must outlive this.
  struct Parts {
    Account& account;
    const ParcelEntry& parcel;
    const Paths& paths;
    Session& session;
    Machine& machine;
    std::shared_ptr<VmHost> host;      ///< for a rehearsal
    std::atomic<bool>& lock_lost;      ///< cleared once the lock is ours again
    std::stop_token told;              ///< requested when the daemon is told to end
    std::function<void()> reap;        ///< notes that a guest has ended by itself
    std::function<void()> before_end;  ///< called just before the session's directory is removed
  };
  explicit SessionCommands(Parts parts) : parts_(std::move(parts)) {}

  /// Returns the answer's line. Errors of Session and Machine.
  nlohmann::json carry_out(const Request& request, const CommandClient& client);

 private:
  /// Defined in the source file for each request that changes a session.
  template <class OneRequest>
  typename OneRequest::Answer run(const OneRequest& request, const CommandClient& client);

  BootOptions boot_options(const BootPart& wanted) const;
  BootAnswer boot(const CommonPart& common, BootOptions& options, const CommandClient& client);
  void secure_lock(const CommonPart& common, const std::stop_token& stop);
  bool has_memory() const;
  void power_off();
  void require_off() const;
  void then_mount(const std::function<void()>& body);
  PublishAnswer publish(const std::string& message, const CommandClient& client);
  PublishAnswer publish_and_end(const std::string& message, const CommandClient& client);

  Parts parts_;
};

}  // namespace isr
