#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "repository/lock.h"

namespace isr {

/// Renews an attended lock after each third of its lease. Does so on a thread of its own, because an upload of the
/// session may take longer than a lease. After this host has slept past the due time, renews within a second.
///
/// Threads: one at a time.
class LeaseKeeper {
 public:
  /// Opens the lock anew for each renewal, so that a repository that has come back is found. Calls of the returned lock
  /// end on stop. Error{kOffline} when the repository cannot be opened now.
  using OpenLock = std::function<ParcelLock(const std::stop_token& stop)>;
  /// Called once another host has taken the lock over, on the keeper's thread. Nothing is renewed after that.
  using OnLost = std::function<void(const Error& how)>;

  /// A clock that goes on while this host sleeps.
  using Clock = std::function<std::chrono::milliseconds()>;

  /// Uses only `hold` and `lease` of `held`; its number may be 0.
  LeaseKeeper(LockRecord held, OpenLock open, OnLost on_lost, Clock clock = boot_time);

  void start();
  /// Aborts a renewal that is in progress, and ends the thread.
  void stop();
  /// True as soon as on_lost is about to be called. May be called from any thread.
  bool lost() const { return lost_; }

 private:
  void keep(const std::stop_token& stop);

  LockRecord held_;
  OpenLock open_;
  OnLost on_lost_;
  Clock clock_;
  std::atomic<bool> lost_{false};
  std::jthread thread_;
};

}  // namespace isr
