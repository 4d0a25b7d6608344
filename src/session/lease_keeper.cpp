#include "session/lease_keeper.h"

#include <algorithm>

#include "base/log.h"
#include "base/sleep.h"

namespace isr {
namespace {

using std::chrono::milliseconds;

constexpr int kRenewals = 3;         // per lease
constexpr int kAttempts = 30;        // per lease, while the repository does not answer
constexpr milliseconds kLook{1000};  // how often the clock is read: timers stand still while the host sleeps

}  // namespace

LeaseKeeper::LeaseKeeper(LockRecord held, OpenLock open, OnLost on_lost, Clock clock)
    : held_(std::move(held)), open_(std::move(open)), on_lost_(std::move(on_lost)), clock_(std::move(clock)) {}

void LeaseKeeper::start() {
  thread_ = std::jthread([this](const std::stop_token& stop) { keep(stop); });
}

void LeaseKeeper::stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::keep(const std::stop_token& stop) {
  const milliseconds lease = held_.lease;
  milliseconds until_next = lease / kRenewals;
  for (;;) {
    const milliseconds due = clock_() + until_next;
    for (auto left = until_next; left.count() > 0 && !stop.stop_requested(); left = due - clock_()) {
      sleep_unless_stopped(std::min(left, kLook), stop);
    }
    if (stop.stop_requested()) return;
    try {
      held_ = open_(stop).renew(held_);
      until_next = lease / kRenewals;
    } catch (const std::exception& failure) {
      if (stop.stop_requested()) return;
      const Error error = as_error(failure);
      if (error.kind() == ErrorKind::kLocked) {
        lost_ = true;
        return on_lost_(error);
      }
      log::warn("cannot renew the lock: {}", error.what());
      until_next = lease / kAttempts;
    }
  }
}

}  // namespace isr
