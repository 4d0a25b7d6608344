#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "base/progress.h"
#include "daemon/control.h"
#include "session/session.h"

/// Answers of the session daemon to the client of a command: progress while it works or waits, and why it failed.
namespace isr {

inline constexpr std::chrono::milliseconds kProgressPeriod{100};

/// A publish has failed: the same error, with where the work is kept meanwhile and how to go on.
Error explain_publish_failure(const Error& error, const std::string& parcel, const std::string& repository,
                              bool suspended);

/// Progress as lines to the client: each new step and each end, between them one a period. reply must outlive it.
ProgressFn progress_to(const ControlReply& reply);

/// The command that the daemon carries out now.
struct CurrentCommand {
  std::string command;                  ///< empty: nothing
  nlohmann::json progress;              ///< its last progress line, null before the first
  const ControlReply* reply = nullptr;  ///< to its client, as long as there is a command

  /// Tells the client that it waits, beside the step that it is at.
  void tell_of_wait(const std::string& words) const;

  /// The progress line of a waiting command. One that was interrupted and run again sees what it began.
  nlohmann::json progress_for(const std::string& waiting) const;
};

/// The command that ended the session, and what it came to.
struct EndingCommand {
  std::string command;
  nlohmann::json result;

  /// The result for a request that waited for the end: the same command, run again after an interruption, has done
  /// what was wanted. NotBegun for another.
  nlohmann::json result_for(const std::string& waited) const;
};

}  // namespace isr
