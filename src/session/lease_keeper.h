#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "repository/lock.h"

namespace isr {

/// Renews an attended lock at a third of its lease, whatever its session does meanwhile: an upload
/// may take longer than a lease. After the machine has slept it renews at once.
///
/// Threads: one at a time.
class LeaseKeeper {
 public:
  /// Reaches the repository anew each time; its calls end on stop. Error{kOffline}: not now.
  using OpenLock = std::function<ParcelLock(const std::stop_token& stop)>;
  /// Somebody has taken the lock over; nothing is renewed any more. On the keeper's thread.
  using OnLost = std::function<void(const Error& how)>;

  /// Time that goes on while the machine sleeps.
  using Clock = std::function<std::chrono::milliseconds()>;

  /// Of `held`, `hold` and `lease` count; its number may be 0.
  LeaseKeeper(LockRecord held, OpenLock open, OnLost on_lost, Clock clock = boot_time);

  void start();
  /// Gives up a renewal that is on its way.
  void stop();
  /// on_lost is being called, or was. From any thread.
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
