#include "image/prefetch_queue.h"

#include <algorithm>
#include <system_error>

namespace isr {

PrefetchQueue::PrefetchQueue(const PrefetchOptions& options, std::function<unsigned()> window)
    : options_(options), window_(std::move(window)) {}

PrefetchQueue::~PrefetchQueue() {
  std::vector<std::jthread> threads;
  std::deque<std::function<void()>> dropped;  // destroyed without the lock
  {
    auto state = state_.lock();
    state->stopping = true;
    dropped.swap(state->waiting);
    threads.swap(state->threads);
  }
  changed_.notify_all();
  threads.clear();  // joins
}

void PrefetchQueue::submit(std::function<void()> task) {
  auto state = state_.lock();
  if (state->stopping || state->waiting.size() >= options_.most_waiting) return;
  state->waiting.push_back(std::move(task));
  const std::size_t wanted = std::min<std::size_t>(options_.threads, std::max(1U, window_()));
  try {
    while (state->threads.size() < wanted) state->threads.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    // The running threads do the work. Without any, the tasks are dropped, and chunks are read when they are needed.
    if (state->threads.empty()) state->waiting.clear();
  }
  changed_.notify_all();  // a thread that waits for the end may also wait here
}

void PrefetchQueue::wait_idle() {
  auto state = state_.lock();
  state.wait(changed_, [&] { return state->waiting.empty() && state->running == 0; });
}

void PrefetchQueue::work() {
  auto state = state_.lock();
  for (;;) {
    state.wait(changed_, [&] {
      return state->stopping || (!state->waiting.empty() && state->running < std::max(1U, window_()));
    });
    if (state->stopping) return;
    auto task = std::move(state->waiting.front());
    state->waiting.pop_front();
    ++state->running;
    state.unlock();
    task();
    task = nullptr;
    state.relock();
    --state->running;
    // The window may have grown meanwhile, so wake more than one.
    changed_.notify_all();
  }
}

}  // namespace isr
