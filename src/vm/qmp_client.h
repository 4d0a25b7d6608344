#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <stop_token>
#include <string>
#include <thread>

#include "base/handle.h"
#include "base/patience.h"
#include "base/sync.h"
#include "vm/qmp_reader.h"

namespace isr {

/// A QMP conversation over a connected UNIX socket.
///
/// Errors:  kVm when QEMU refuses a command (with its class and text), does not answer in time, sends something that is
///          not QMP, or is gone; kCancelled.
/// Threads: execute() from many at once; events come on the reader thread.
class QmpClient {
 public:
  using OnEvent = std::function<void(const QmpEvent&)>;

  QmpClient(UniqueFd connected, OnEvent on_event);
  ~QmpClient();

  /// Starts the reader, waits for the greeting and leaves negotiation mode. Returns QEMU's version.
  std::string handshake(const Patience& patience);
  nlohmann::json execute(const std::string& command, const nlohmann::json& arguments, const Patience& patience);
  nlohmann::json execute(const std::string& command, const Patience& patience);
  /// Gives QEMU a descriptor under a name, with the command getfd.
  void send_fd(const std::string& name, int fd, const Patience& patience);
  /// True once the connection has ended, by either side.
  bool ended() const;
  /// Waits for the end of the connection; false on time-out.
  bool wait_ended(const Patience& patience) const;

 private:
  struct State {
    std::optional<std::string> version;
    std::map<std::uint64_t, std::optional<QmpMessage>> waiting;
    std::uint64_t next_id = 1;
    std::string why_ended;  ///< empty while the connection lives
  };
  void read_all(const std::stop_token& stop);
  void take(QmpMessage message);
  void end(const std::string& why);
  void send(std::string_view line, int fd, const Patience& patience);
  nlohmann::json converse(const std::string& command, const nlohmann::json& arguments, int fd,
                          const Patience& patience);

  UniqueFd fd_;
  UniqueFd wake_;
  OnEvent on_event_;
  Sync<State> state_;
  mutable std::condition_variable_any changed_;
  Sync<bool> sending_;  ///< held while one whole line is sent; lock it before state_ when both are needed
  std::jthread reader_;
};

}  // namespace isr
