#include "daemon/operation.h"

#include "base/stop.h"

namespace isr {

/// Counts one caller that waits for the mutex, and stops idle work.
class Operation::Wish {
 public:
  explicit Wish(Operation& operation) : operation_(operation) {
    std::stop_source idle = [&] {
      auto waiting = operation_.waiting_.lock();
      ++waiting->count;
      return waiting->idle;
    }();
    idle.request_stop();  // not under the lock: it runs stop callbacks
  }
  ~Wish() { --operation_.waiting_.lock()->count; }
  Wish(const Wish&) = delete;
  Wish& operator=(const Wish&) = delete;

 private:
  Operation& operation_;
};

void Operation::lock() {
  const Wish wish(*this);
  mutex_.lock();
}

bool Operation::try_lock_for(std::chrono::milliseconds patience) {
  const Wish wish(*this);
  return mutex_.try_lock_for(patience);
}

void Operation::work_idly(const std::stop_token& stop, const std::function<void(const std::stop_token&)>& work) {
  std::stop_source wanted;
  {
    auto waiting = waiting_.lock();
    if (waiting->count > 0) return;
    waiting->idle = wanted;
  }
  const EitherStop either(stop, wanted.get_token());
  try {
    work(either.token());
  } catch (...) {
    if (!either.token().stop_requested()) throw;
  }
}

}  // namespace isr
