#pragma once

#include <chrono>
#include <optional>
#include <set>
#include <string>

#include "base/sync.h"

namespace isr {

/// Since when the calls of a repository's stores have been without an answer, so that who waits can be told.
/// Threads: any.
class StoreWaits {
 public:
  using Clock = std::chrono::steady_clock;

  /// One call, with all its attempts, from its making to its end.
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

  /// When the oldest of the calls that are under way began; nullopt: there is none.
  std::optional<Clock::time_point> oldest() {
    auto begun = begun_.lock();
    return begun->empty() ? std::nullopt : std::optional(*begun->begin());
  }

 private:
  Sync<std::multiset<Clock::time_point>> begun_;
};

/// Of one who waits: when it is time to say so, and what.
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
