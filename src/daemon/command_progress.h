#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "base/progress.h"
#include "daemon/control_server.h"
#include "daemon/protocol.h"

/// Answers of the session daemon to the client of a command: progress while it works or waits, and why it failed.
namespace isr {

inline constexpr std::chrono::milliseconds kProgressPeriod{100};

/// A publish has failed: the same error, with where the work is kept meanwhile and how to go on.
Error explain_publish_failure(const Error& error, const std::string& parcel, const std::string& repository,
                              bool suspended);

/// The guest did not shut down within the time that `isr stop` gives it.
Error still_running(const std::string& parcel, std::chrono::seconds timeout);

/// Progress as lines to the client: each new step and each end, between them one a period. send must outlive it.
using SendProgress = std::function<void(const ProgressLine&)>;
ProgressFn progress_to(const SendProgress& send);

/// The command that the daemon carries out now.
struct CurrentCommand {
  std::string command;                   ///< empty: nothing
  std::optional<ProgressLine> progress;  ///< the last that was sent
  const ControlReply* reply = nullptr;   ///< to its client, as long as there is a command

  /// Tells the client that it waits, beside the step that it is at.
  void tell_of_wait(const std::string& words) const;

  /// The progress line of a waiting command. One that was interrupted and run again sees what it began.
  ProgressLine progress_for(std::string_view waiting) const;
};

/// The command that ended the session, and what it came to.
struct EndingCommand {
  std::string command;
  nlohmann::json result;  ///< the answer's line

  /// The result for a request that waited for the end: the same command, run again after an interruption, has done
  /// what was wanted. NotBegun for another.
  nlohmann::json result_for(std::string_view waited) const;
};

}  // namespace isr
