#include "daemon/control_line.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/json_object.h"
#include "daemon/control.h"

namespace isr {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

void send_control_line(int fd, const json& message) {
  const std::string line = message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  for (std::size_t sent = 0; sent < line.size();) {
    const ssize_t n = ::send(fd, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("the control connection broke", errno);
    sent += static_cast<std::size_t>(n);
  }
}

json parse_control_line(const std::string& line) { return parse_json_object(line, "a control line"); }

bool has_gone(int fd) {
  pollfd poll_fd{fd, 0, 0};
  return ::poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLHUP) != 0;
}

bool has_room(int fd) {
  pollfd poll_fd{fd, POLLOUT, 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

std::optional<std::string> ControlLineReader::next(milliseconds timeout, const std::stop_token& stop) {
  const auto deadline = Clock::now() + timeout;
  for (;;) {
    if (const auto end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (buffer_.size() > kMaxControlLine) throw Error(ErrorKind::kCorrupt, "a control line is too long");
    if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; run the command again to go on");
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
    const auto wait = std::clamp(left, milliseconds(0), milliseconds(100));
    pollfd poll_fd{fd_, POLLIN, 0};
    const int ready = ::poll(&poll_fd, 1, static_cast<int>(wait.count()));
    // The passed deadline is not enough: a command that was stopped (Ctrl-Z) may find its answer here all the same.
    timed_out_ = ready == 0 && left.count() <= 0;
    if (timed_out_) return std::nullopt;
    if (ready <= 0) continue;
    char bytes[4096];
    const ssize_t n = ::read(fd_, bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    buffer_.append(bytes, static_cast<std::size_t>(n));
  }
}

json error_line(const Error& error) {
  return {{"type", "error"}, {"kind", to_name(error.kind())}, {"message", error.what()}, {"hints", error.hints()}};
}

std::string type_of(const json& message) {
  const auto type = message.find("type");
  if (type == message.end() || !type->is_string()) throw Error(ErrorKind::kCorrupt, "a control line has no type");
  return type->get<std::string>();
}

[[noreturn]] void throw_error_of(const json& message) {
  std::string what;
  std::vector<std::string> hints;
  ErrorKind kind = ErrorKind::kFailed;
  bool is_begun = true;
  try {
    kind = error_kind_from_name(message.at("kind").get<std::string>());
    what = message.at("message").get<std::string>();
    hints = message.at("hints").get<std::vector<std::string>>();
    is_begun = message.value("begun", true);
  } catch (const json::exception&) {
    throw Error(ErrorKind::kCorrupt, "the session daemon sent an error line that cannot be parsed");
  }
  if (!is_begun) throw NotBegun(what, hints);
  throw Error(kind, what, hints);
}

}  // namespace isr
