#pragma once

#include <cstddef>
#include <exception>
#include <latch>
#include <memory>

#include "base/error.h"
#include "base/thread_pool.h"

namespace isr {

/// Does one half of a long append on another processor, because encryption is most of a writer's waiting time.
/// Threads: one call at a time.
class TwoHalves {
 public:
  /// Calls body(i) for each i. Throws the first failure once both halves have ended.
  template <class Body>
  void run(std::size_t count, const Body& body) {
    const std::size_t half = count >= kLongRun && has_second() ? count / 2 : 0;
    std::exception_ptr failure;
    std::latch done(half > 0 ? 1 : 0);
    if (half > 0) {
      second_->submit([&] {
        try {
          for (std::size_t i = 0; i < half; ++i) body(i);
        } catch (...) {
          failure = std::current_exception();
        }
        done.count_down();
      });
    }
    try {
      for (std::size_t i = half; i < count; ++i) body(i);
    } catch (...) {
      done.wait();
      throw;
    }
    done.wait();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  static constexpr std::size_t kLongRun = 8;  ///< records; fewer are finished before another thread wakes up

  /// Returns false when no thread is available; the caller then does all the work.
  bool has_second() {
    try {
      if (!second_) second_ = std::make_unique<ThreadPool>(1);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  std::unique_ptr<ThreadPool> second_;  ///< begun with the first long append
};

}  // namespace isr
