#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <stop_token>

#include "base/error.h"
#include "base/file.h"

namespace isr {

/// The control socket of a session daemon: a UNIX stream socket in a 0700
/// directory; one request a connection, one JSON object a line.
///
///   client → {"command":"suspend", …}, as protocol.h says
///   server → {"type":"accepted"} at once, then any number of
///            {"type":"progress","step":…,"done":…,"total":…} and {"type":"alive"} (every second), then
///            {"type":"result", …} or {"type":"error","kind":…,"message":…,"hints":[…]}, with "begun":false when
///            NotBegun was thrown
///
/// Lines are at most kMaxControlLine bytes, nested at most 16 deep; a client of another
/// uid is refused; a request that is not complete in 10 s is dropped.
inline constexpr std::size_t kMaxControlLine = 1U << 20U;

/// The daemon ended, or is about to end, before it began with the request. The request may be sent to the next daemon.
class NotBegun : public Error {
 public:
  explicit NotBegun(const std::string& what, std::vector<std::string> hints = {})
      : Error(ErrorKind::kDaemon, what, std::move(hints)) {}
};

using ControlProgress = std::function<void(const nlohmann::json&)>;
/// Sends one request and returns the fields of its result, without the type. NotBegun when no daemon listens;
/// Error{kDaemon} when nothing is heard for 3.5 s; {kCancelled} on stop; {kCorrupt} for a line of no known shape; else
/// the error that the daemon sends.
nlohmann::json control_request(const fs::path& socket, const nlohmann::json& request,
                               const ControlProgress& progress = {}, std::stop_token stop = {});
/// True if a daemon listens there.
bool control_alive(const fs::path& socket);

}  // namespace isr
