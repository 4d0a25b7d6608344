#include "daemon/control.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "daemon/control_address.h"
#include "daemon/control_line.h"

namespace isr {

using nlohmann::json;

json control_request(const fs::path& socket, const json& request, const ControlProgress& progress,
                     std::stop_token stop) {
  const auto fd = connect_to_control(socket);
  if (!fd) throw NotBegun(fmt::format("no session daemon listens at {}", socket.string()));
  try {
    send_control_line(fd->get(), request);
  } catch (const Error& error) {
    throw NotBegun(error.what());
  }
  ControlLineReader reader(fd->get());
  for (bool is_accepted = false;; is_accepted = true) {
    const auto line = reader.next(kControlSilence, stop);
    if (!line) {
      if (reader.timed_out()) throw_silent(peer_of(fd->get()).pid);
      const std::string what = "the session daemon ended before it answered";
      const std::vector<std::string> hints{"run the command again; written data is kept"};
      if (!is_accepted) throw NotBegun(what, hints);
      throw Error(ErrorKind::kDaemon, what, hints);
    }
    json message = parse_control_line(*line);
    const std::string type = type_of(message);
    if (type == "result") {
      message.erase("type");
      return message;
    }
    if (type == "error") throw_error_of(message);
    if (type == "progress" && progress) progress(message);
  }
}

bool control_alive(const fs::path& socket) { return connect_to_control(socket).has_value(); }

}  // namespace isr
