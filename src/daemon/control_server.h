#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <stop_token>

#include "base/file.h"

/// The daemon's end of the control socket (control.h).
namespace isr {

/// Sends a progress line without waiting. Returns false if the line was dropped because the client does not read (it is
/// stopped). Returns true also when the client has gone.
using ControlReply = std::function<bool(const nlohmann::json&)>;
/// Runs one request on a thread of its own. Its return value has the fields of the result; its exception becomes the
/// error line. It may call `reply` with progress. `stop` is requested when the client has gone or the server ends, so
/// that a request that can be given up ends.
using ControlHandler = std::function<nlohmann::json(const nlohmann::json& request, const ControlReply& reply,
                                                    const std::stop_token& stop)>;

class ControlServer {
 public:
  virtual ~ControlServer() = default;  ///< stops listening, ends connections
  /// Removes the socket, so that another server may take the path. Requests that were accepted still get their answer.
  /// A handler may call this.
  virtual void stop_listening() = 0;
};
/// Error{kDaemon} if a live server has the path, or the path is not a socket.
std::unique_ptr<ControlServer> start_control_server(const fs::path& socket, ControlHandler handler);

}  // namespace isr
