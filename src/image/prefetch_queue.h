#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/sync.h"

namespace isr {

struct PrefetchOptions {
  unsigned threads = 16;           ///< limit
  std::size_t most_waiting = 256;  ///< limit on waiting tasks; further ones are dropped
};

/// Runs optional tasks in order, as many at once as `window` returns (called before each task, so it must be cheap).
/// Tasks are dropped when too many wait. Threads start with the first task. A task must not throw.
class PrefetchQueue {
 public:
  PrefetchQueue(const PrefetchOptions& options, std::function<unsigned()> window);
  ~PrefetchQueue();  ///< drops tasks that have not begun and joins the threads
  PrefetchQueue(const PrefetchQueue&) = delete;
  PrefetchQueue& operator=(const PrefetchQueue&) = delete;

  void submit(std::function<void()> task);
  void wait_idle();

 private:
  struct State {
    std::deque<std::function<void()>> waiting;
    std::vector<std::jthread> threads;
    unsigned running = 0;
    bool stopping = false;
  };
  void work();

  PrefetchOptions options_;
  std::function<unsigned()> window_;
  Sync<State> state_;
  std::condition_variable changed_;
};

}  // namespace isr
