#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "base/progress.h"
#include "daemon/control_server.h"
#include "daemon/protocol.h"

/// The session daemon's messages to the client of a command: progress while the command works or waits, and the reason
/// why it failed.
namespace isr {

inline constexpr std::chrono::milliseconds kProgressPeriod{100};

/// Adds to the error of a failed publish where the work is kept meanwhile, and how to go on.
Error explain_publish_failure(const Error& error, const std::string& parcel, const std::string& repository,
                              bool suspended);

/// The error for a guest that did not shut down within the time that `isr stop` gives it.
Error still_running(const std::string& parcel, std::chrono::seconds timeout);

/// Sends progress to the client: a line for each new step and for its end, and between them one each kProgressPeriod at
/// most. `send` must outlive the result.
using SendProgress = std::function<void(const ProgressLine&)>;
ProgressFn progress_to(const SendProgress& send);

/// The command that the daemon carries out now.
struct CurrentCommand {
  std::string command;                   ///< empty: none
  std::optional<ProgressLine> progress;  ///< the last line that was sent
  const ControlReply* reply = nullptr;   ///< sends to its client; valid while there is a command

  /// Tells the client, beside its present step, why it waits.
  void tell_of_wait(const std::string& words) const;

  /// Returns the progress line for a command that waits for this one. A command that was interrupted and run again
  /// waits for its own first run, so it gets the progress of that.
  ProgressLine progress_for(std::string_view waiting) const;
};

/// The command that ended the session, and its result.
struct EndingCommand {
  std::string command;
  nlohmann::json result;  ///< the line of the answer

  /// Returns the result to a request for the same command that waited meanwhile: a command that was interrupted and run
  /// again gets the result of its first run. Throws NotBegun for another command.
  nlohmann::json result_for(std::string_view waited) const;
};

}  // namespace isr
