#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "session/control.h"
#include "session/session.h"

/// What a command's client is told while the session daemon works for it, or for another one before.
namespace isr {

inline constexpr std::chrono::milliseconds kProgressPeriod{100};

/// Progress as lines to the client: each new step and each end, between them one a period. reply must outlive it.
ProgressFn progress_to(const ControlReply& reply);

/// What the daemon is busy with.
struct CurrentCommand {
  std::string command;      ///< empty: nothing
  nlohmann::json progress;  ///< its last progress line, null before the first

  /// The progress line of a waiting command. One that was interrupted and run again sees what it began.
  nlohmann::json progress_for(const std::string& waiting) const;
};

/// The command that ended the session, and what it came to.
struct EndingCommand {
  std::string command;
  nlohmann::json result;

  /// The result for a request that waited for the end: the same command, run again after an interruption, has done
  /// what was wanted. Error{kDaemon} for another.
  nlohmann::json result_for(const std::string& waited) const;
};

}  // namespace isr
