#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/sync.h"

namespace isr {

/// A fixed number of threads that run tasks in the order of submission. A task must not throw. The destructor drops
/// tasks that have not begun and joins the rest.
class ThreadPool {
 public:
  explicit ThreadPool(unsigned threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void submit(std::function<void()> task);
  /// The number of queued and running tasks.
  std::size_t pending() const;
  void wait_idle();

 private:
  struct State {
    std::deque<std::function<void()>> queue;
    std::size_t running = 0;
    bool stopping = false;
  };
  void work();

  Sync<State> state_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::vector<std::jthread> threads_;
};

/// Runs body(i) for 0 <= i < count on up to `threads` threads. Starts no index after a failure, and rethrows the first
/// exception once all threads have stopped.
void parallel_for(std::size_t count, unsigned threads, const std::function<void(std::size_t)>& body);

}  // namespace isr
