#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <stop_token>

#include "base/file.h"

/// The daemon's end of the control socket (control.h).
namespace isr {

/// Sends progress, without waiting. False: the client does not read (it is stopped), and the
/// line was dropped. True also when the client has gone.
using ControlReply = std::function<bool(const nlohmann::json&)>;
/// Runs one request on a thread of its own; what it returns is the result's
/// fields, what it throws the error. reply() may be called with progress.
/// `stop` is requested when the client has gone or the server ends: for requests that follow something.
using ControlHandler = std::function<nlohmann::json(const nlohmann::json& request, const ControlReply& reply,
                                                    const std::stop_token& stop)>;

class ControlServer {
 public:
  virtual ~ControlServer() = default;  ///< stops listening, ends connections
  /// Removes the socket; requests that were accepted still get their answer. May be called by a handler.
  /// From then on another server may take the path.
  virtual void stop_listening() = 0;
};
/// Error{kDaemon} when the path is taken by a live server or is no socket.
std::unique_ptr<ControlServer> start_control_server(const fs::path& socket, ControlHandler handler);

}  // namespace isr
