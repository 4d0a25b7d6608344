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
  /// The same, but nothing gives way: for what is done in idle time, and for a look at how things stand.
  bool try_lock_politely_for(std::chrono::milliseconds patience) { return mutex_.try_lock_for(patience); }
  void unlock() { mutex_.unlock(); }
  /// With the mutex held: calls `work`, whose token is stopped with `stop`, or when somebody waits for the mutex.
  /// Its error is thrown unless it was stopped.
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
