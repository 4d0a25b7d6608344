#pragma once

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "session/control.h"
#include "session/session.h"

namespace isr {

inline constexpr std::chrono::milliseconds kProgressPeriod{100};

/// Progress as lines to the client: each new step and each end, between them one a period. reply must outlive it.
inline ProgressFn progress_to(const ControlReply& reply) {
  return [&reply, last = std::chrono::steady_clock::time_point{}, last_step = std::string()](
             std::string_view step, std::uint64_t done, std::uint64_t total) mutable {
    const auto now = std::chrono::steady_clock::now();
    if (step == last_step && done != total && now - last < kProgressPeriod) return;
    last = now;
    last_step = step;
    reply({{"type", "progress"}, {"step", step}, {"done", done}, {"total", total}});
  };
}

/// What the session daemon is busy with; a command that waits for it is told.
struct CurrentCommand {
  std::string command;      ///< empty: nothing
  nlohmann::json progress;  ///< its last progress line, null before the first

  /// The progress line of a waiting command. One that was interrupted and run again sees what it began.
  nlohmann::json progress_for(const std::string& waiting) const {
    if (waiting == command && !progress.is_null()) return progress;
    const std::string step = command.empty() ? "wait" : fmt::format("wait for {}", command);
    return {{"type", "progress"}, {"step", step}, {"done", 0}, {"total", 0}};
  }
};

/// The command that ended the session, and what it came to.
struct EndingCommand {
  std::string command;
  nlohmann::json result;

  /// The result for a request that waited for the end: the same command, run again after an interruption, has done
  /// what was wanted. Error{kDaemon} for another.
  nlohmann::json result_for(const std::string& waited) const {
    if (waited == command) return result;
    throw Error(ErrorKind::kDaemon, "the session has just ended");
  }
};

}  // namespace isr
