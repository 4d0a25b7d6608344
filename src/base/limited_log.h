#pragma once

#include <spdlog/sinks/sink.h>

#include <chrono>
#include <map>
#include <memory>
#include <string_view>

namespace isr {

/// A log that others can make us write: a guest that panics in a loop, a client that sends junk.
struct LogLimits {
  std::chrono::seconds repeat_after{60};  ///< the same line is not written again before
  double lines_per_second = 2;            ///< in the long run
  double burst_lines = 200;               ///< at once
  std::size_t line_bytes = 2000;          ///< the rest of a line is cut off
  std::uint64_t file_bytes = 4U << 20U;   ///< then the file becomes FILE.1 and a new one begins
};

/// Which lines are written. The clock is the caller's.
class LogThrottle {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Ruling {
    bool write = false;
    std::uint64_t repeated = 0;  ///< so often the same line was held back before this one
    std::uint64_t left_out = 0;  ///< so many others were
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
  Time counted_;  ///< until when the allowance was
  std::uint64_t left_out_ = 0;
};

/// Writes to a descriptor within the limits. When that is a regular file which was opened to append, its size is
/// limited, too: together with FILE.1 it takes twice file_bytes and a little.
std::shared_ptr<spdlog::sinks::sink> make_limited_sink(int fd, const LogLimits& limits = {});

}  // namespace isr
