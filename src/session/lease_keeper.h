#pragma once

#include <functional>
#include <thread>

#include "repository/lock.h"

namespace isr {

/// Renews an attended lock at a third of its lease, whatever its session does meanwhile: an upload
/// may take longer than a lease.
///
/// Threads: one at a time.
class LeaseKeeper {
 public:
  /// Reaches the repository anew each time. Error{kOffline}: not now.
  using OpenLock = std::function<ParcelLock()>;
  /// Somebody has taken the lock over; nothing is renewed any more. On the keeper's thread.
  using OnLost = std::function<void(const Error& how)>;

  LeaseKeeper(LockRecord held, OpenLock open, OnLost on_lost);

  void start();
  /// Returns when no renewal is on its way; the lock is as it was left.
  void stop();

 private:
  void keep(const std::stop_token& stop);

  LockRecord held_;
  OpenLock open_;
  OnLost on_lost_;
  std::jthread thread_;
};

}  // namespace isr
