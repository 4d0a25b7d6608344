#pragma once

#include <condition_variable>
#include <mutex>
#include <utility>

namespace isr {

/// A value that can only be reached while its mutex is held.
///   auto state = state_.lock();  state->x = 1;  state.wait(cv_, [&] { return state->ready; });
template <class T>
class Sync {
 public:
  Sync() = default;
  explicit Sync(T value) : value_(std::move(value)) {}

  class Guard {
   public:
    explicit Guard(Sync& owner) : lock_(owner.mutex_), value_(&owner.value_) {}
    T* operator->() { return value_; }
    T& operator*() { return *value_; }
    std::unique_lock<std::mutex>& mutex_lock() { return lock_; }
    void unlock() { lock_.unlock(); }
    void relock() { lock_.lock(); }
    template <class Predicate>
    void wait(std::condition_variable& cv, Predicate ready) {
      cv.wait(lock_, ready);
    }
    template <class Duration, class Predicate>
    bool wait_for(std::condition_variable& cv, Duration timeout, Predicate ready) {
      return cv.wait_for(lock_, timeout, ready);
    }

   private:
    std::unique_lock<std::mutex> lock_;
    T* value_;
  };

  Guard lock() { return Guard(*this); }
  Guard lock() const { return Guard(const_cast<Sync&>(*this)); }

 private:
  std::mutex mutex_;
  T value_{};
};

}  // namespace isr
