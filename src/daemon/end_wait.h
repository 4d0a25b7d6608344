#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "base/handle.h"

namespace isr {

/// Waits for the end of a daemon while its other threads work. To be made after block_signals().
///
/// Threads: wait() on one, the others from any.
class EndWait {
 public:
  enum class Cause {
    kDone,      ///< done() was called; wait() returns this from then on
    kSignal,    ///< SIGTERM or SIGINT has come; once for each signal
    kShutdown,  ///< shutdown_begins() was called, once
    kTime,      ///< none of these in time
  };
  EndWait();

  void done() noexcept;
  void shutdown_begins() noexcept;
  /// Absent: without end.
  Cause wait(std::optional<std::chrono::steady_clock::time_point> until = {});
  /// After wait() has said `first`: true once done() was called, false at the second signal or when time is up.
  bool await_done(Cause first, std::chrono::steady_clock::time_point until);
  /// Runs `save`, which calls done() in the end, on a thread of its own, and awaits that. On false the thread goes on,
  /// and the process must end. Without a thread to spare the time is not watched.
  bool save_in_time(Cause first, std::chrono::steady_clock::duration limit, const std::function<void()>& save);

 private:
  UniqueFd signals_;
  UniqueFd done_;
  UniqueFd shutdown_;
};

}  // namespace isr
