#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <stop_token>
#include <string>

#include "base/error.h"

/// The lines of a control connection, one JSON object each (control.h).
namespace isr {

void send_control_line(int fd, const nlohmann::json& message);
nlohmann::json parse_control_line(const std::string& line);  ///< Error{kCorrupt}

/// True if the other side has closed.
bool has_gone(int fd);
/// False while the buffer is full because the other side does not read. True if it has closed: sending then fails.
bool has_room(int fd);

/// Reads lines with a deadline for each.
class ControlLineReader {
 public:
  explicit ControlLineReader(int fd) : fd_(fd) {}

  /// nullopt: the other side closed, or the deadline passed (then timed_out()). Error{kCancelled} on stop, {kCorrupt}
  /// for a line above kMaxControlLine.
  std::optional<std::string> next(std::chrono::milliseconds timeout, const std::stop_token& stop = {});
  bool timed_out() const { return timed_out_; }

 private:
  int fd_;
  std::string buffer_;
  bool timed_out_ = false;
};

nlohmann::json error_line(const Error& error);
std::string type_of(const nlohmann::json& message);
/// Throws the error that error_line() was made of; NotBegun if the line says so.
[[noreturn]] void throw_error_of(const nlohmann::json& message);

}  // namespace isr
