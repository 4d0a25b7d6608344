#pragma once

#include <spdlog/sinks/sink.h>

#include <chrono>
#include <map>
#include <memory>
#include <string_view>

namespace isr {

/// Limits for a log that outsiders can fill: a guest that panics in a loop, a client that sends junk.
struct LogLimits {
  std::chrono::seconds repeat_after{60};  ///< a line is not written again before this
  double lines_per_second = 2;            ///< long-term average
  double burst_lines = 200;               ///< allowed at once
  std::size_t line_bytes = 2000;          ///< the rest of a line is cut off
  std::uint64_t file_bytes = 4U << 20U;   ///< then the file is renamed to FILE.1 and a new one begins
};

/// Decides which lines are written. The caller supplies the time.
class LogThrottle {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Ruling {
    bool write = false;
    std::uint64_t repeated = 0;  ///< how often this line was held back before
    std::uint64_t left_out = 0;  ///< how many other lines were held back
  };
  LogThrottle(const LogLimits& limits, Time now) : limits_(limits), allowance_(limits.burst_lines), counted_(now) {}
  Ruling rule(std::string_view line, Time now);

 private:
  struct Seen {
    Time written;
    std::uint64_t held_back = 0;
  };
  void forget_oldest();

  LogLimits limits_;
  std::map<std::size_t, Seen> seen_;  ///< by the line's hash
  double allowance_;
  Time counted_;  ///< the allowance is counted up to here
  std::uint64_t left_out_ = 0;
};

/// A sink that writes to a descriptor within the limits. When the descriptor is a regular file opened to append, its
/// size is limited, too: the file and FILE.1 together take a little more than twice file_bytes.
std::shared_ptr<spdlog::sinks::sink> make_limited_sink(int fd, const LogLimits& limits = {});

}  // namespace isr
