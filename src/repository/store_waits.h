#pragma once

#include <chrono>
#include <optional>
#include <set>
#include <string>

#include "base/sync.h"

namespace isr {

/// Since when calls of a repository's stores have been waiting for an answer, so that the user can be told.
/// Threads: any.
class StoreWaits {
 public:
  using Clock = std::chrono::steady_clock;

  /// One call with all its attempts; it counts from construction to destruction.
  class Call {
   public:
    /// `waits` may be null; else it must outlive the call.
    explicit Call(StoreWaits* waits) : waits_(waits) {
      if (waits_ != nullptr) entry_ = waits_->begun_.lock()->insert(Clock::now());
    }
    ~Call() {
      if (waits_ != nullptr) waits_->begun_.lock()->erase(entry_);
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    StoreWaits* waits_;
    std::multiset<Clock::time_point>::iterator entry_;
  };

  /// When the oldest call that is under way began; nullopt when there is none.
  std::optional<Clock::time_point> oldest() {
    auto begun = begun_.lock();
    return begun->empty() ? std::nullopt : std::optional(*begun->begin());
  }

 private:
  Sync<std::multiset<Clock::time_point>> begun_;
};

/// Decides when to report a wait, and with which text.
/// Threads: one at a time.
class WaitReport {
 public:
  /// "no answer from home for 10 s", once at 10, 30, 60 s and then each minute; nullopt between.
  std::optional<std::string> due(StoreWaits& waits, const std::string& repository,
                                 StoreWaits::Clock::time_point now = StoreWaits::Clock::now());

 private:
  std::optional<StoreWaits::Clock::time_point> call_;
  std::chrono::seconds next_{};
};

}  // namespace isr
