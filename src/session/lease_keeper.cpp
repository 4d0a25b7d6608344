#include "session/lease_keeper.h"

#include "base/log.h"
#include "base/sleep.h"

namespace isr {
namespace {

using std::chrono::milliseconds;

constexpr int kRenewals = 3;   // in a lease
constexpr int kAttempts = 30;  // in a lease, while the repository does not answer

}  // namespace

LeaseKeeper::LeaseKeeper(LockRecord held, OpenLock open, OnLost on_lost)
    : held_(std::move(held)), open_(std::move(open)), on_lost_(std::move(on_lost)) {}

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
    sleep_unless_stopped(until_next, stop);
    if (stop.stop_requested()) return;
    try {
      held_ = open_(stop).renew(held_);
      until_next = lease / kRenewals;
    } catch (const std::exception& failure) {
      if (stop.stop_requested()) return;
      const Error error = as_error(failure);
      if (error.kind() == ErrorKind::kLocked) return on_lost_(error);
      log::warn("renewing the lock: {}", error.what());
      until_next = lease / kAttempts;
    }
  }
}

}  // namespace isr
