#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>

#include "base/error.h"

namespace isr {

ThreadPool::ThreadPool(unsigned threads) {
  const unsigned count = std::max(1U, threads);
  threads_.reserve(count);
  try {
    while (threads_.size() < count) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& e) {
    // A smaller pool can do the same work; only an empty pool cannot.
    if (threads_.empty()) throw Error(ErrorKind::kIo, std::string("cannot start a thread: ") + e.what());
  }
}

ThreadPool::~ThreadPool() {
  {
    std::deque<std::function<void()>> dropped;  // destroyed after the lock is released, before the join
    auto state = state_.lock();
    state->stopping = true;
    dropped.swap(state->queue);
  }
  wake_.notify_all();
  threads_.clear();  // joins while the other members still live
}

void ThreadPool::submit(std::function<void()> task) {
  state_.lock()->queue.push_back(std::move(task));
  wake_.notify_one();
}

std::size_t ThreadPool::pending() const {
  auto state = state_.lock();
  return state->queue.size() + state->running;
}

void ThreadPool::wait_idle() {
  auto state = state_.lock();
  state.wait(idle_, [&] { return state->queue.empty() && state->running == 0; });
}

void ThreadPool::work() {
  for (;;) {
    std::function<void()> task;
    {
      auto state = state_.lock();
      state.wait(wake_, [&] { return state->stopping || !state->queue.empty(); });
      if (state->stopping) return;
      task = std::move(state->queue.front());
      state->queue.pop_front();
      ++state->running;
    }
    [&]() noexcept { task(); }();
    task = nullptr;  // destroys the captured values before the task counts as done
    auto state = state_.lock();
    --state->running;
    if (state->queue.empty() && state->running == 0) idle_.notify_all();
  }
}

void parallel_for(std::size_t count, unsigned threads, const std::function<void(std::size_t)>& body) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  Sync<std::exception_ptr> first;
  const auto work = [&] {
    while (!failed) {
      const std::size_t i = next++;
      if (i >= count) return;
      try {
        body(i);
      } catch (...) {
        auto error = first.lock();
        if (!*error) *error = std::current_exception();
        failed = true;
      }
    }
  };
  {
    const std::size_t helpers = std::min<std::size_t>(std::max(1U, threads), count) - (count > 0 ? 1 : 0);
    std::vector<std::jthread> running;
    running.reserve(helpers);
    try {
      while (running.size() < helpers) running.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads available: the running ones share the work
    }
    work();
  }
  if (*first.lock()) std::rethrow_exception(*first.lock());
}

}  // namespace isr
