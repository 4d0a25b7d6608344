#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <stop_token>

#include "base/sync.h"

namespace isr {

/// The mutex of a session: one command or background task at a time. Work that runs while the session is idle stops
/// when a command waits for the mutex.
///
/// Threads: any.
class Operation {
 public:
  void lock();
  bool try_lock_for(std::chrono::milliseconds patience);
  /// Like try_lock_for(), but does not stop idle work: for background tasks and status requests.
  bool try_lock_politely_for(std::chrono::milliseconds patience) { return mutex_.try_lock_for(patience); }
  void unlock() { mutex_.unlock(); }
  /// To be called with the mutex held. Calls `work` with a token that is stopped with `stop`, or as soon as lock() or
  /// try_lock_for() waits for the mutex; does nothing if one waits already. Throws the error of `work` unless its token
  /// was stopped.
  void work_idly(const std::stop_token& stop, const std::function<void(const std::stop_token&)>& work);

 private:
  struct Waiting {
    int count = 0;
    std::stop_source idle;
  };
  class Wish;

  std::timed_mutex mutex_;
  Sync<Waiting> waiting_;
};

}  // namespace isr
