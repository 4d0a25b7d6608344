#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "base/handle.h"

namespace isr {

/// Waits for the end of a daemon while its other threads work. block_signals() must be called before it is constructed.
///
/// Threads: wait() on one, the others from any.
class EndWait {
 public:
  enum class Cause {
    kDone,      ///< done() was called; wait() returns this from then on
    kSignal,    ///< SIGTERM or SIGINT has come; once for each signal
    kShutdown,  ///< shutdown_begins() was called, once
    kTime,      ///< none of these happened in time
  };
  EndWait();

  void done() noexcept;
  void shutdown_begins() noexcept;
  /// Waits for the next cause. Without `until` it waits without a limit.
  Cause wait(std::optional<std::chrono::steady_clock::time_point> until = {});
  /// To be called after wait() has returned `first`. Returns true once done() was called, false at the second signal or
  /// when time is up.
  bool await_done(Cause first, std::chrono::steady_clock::time_point until);
  /// Runs `save`, which must call done() at its end, on a thread of its own, and waits like await_done(). If it returns
  /// false the thread still runs, and the process must end. If no thread can be started, it runs `save` itself, without
  /// a time limit.
  bool save_in_time(Cause first, std::chrono::steady_clock::duration limit, const std::function<void()>& save);

 private:
  UniqueFd signals_;
  UniqueFd done_;
  UniqueFd shutdown_;
};

}  // namespace isr
