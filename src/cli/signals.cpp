// The handler only counts and writes to an eventfd. A thread turns that into a stop request, because its callbacks may
// lock. Handlers, unlike a blocked mask, are not inherited through exec.
#include "cli/signals.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <thread>

#include "base/error.h"
#include "base/handle.h"
#include "base/sync.h"

namespace isr {
namespace {

constexpr int kInterrupted = 130;
constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGHUP};

// A signal handler can only use global variables.
std::atomic<int> g_event{-1};
std::atomic<int> g_seen{0};
std::atomic<bool> g_can_stop{false};
std::atomic<bool> g_status_asked{false};

Sync<std::function<void()>>& status_answer() {
  static Sync<std::function<void()>> answer;
  return answer;
}

void wake_watcher() {
  const std::uint64_t one = 1;
  const ssize_t ignored = ::write(g_event.load(), &one, sizeof one);
  static_cast<void>(ignored);
}

void on_signal(int) {
  const int before = g_seen.fetch_add(1);
  if (before > 0 || !g_can_stop.load()) ::_exit(kInterrupted);
  wake_watcher();
}

void on_status_request(int) {
  const int kept = errno;
  g_status_asked = true;
  wake_watcher();
  errno = kept;
}

void set_handler(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(signal, &action, nullptr);
}

/// nohup, and shells that start background jobs, ignore some signals on purpose.
bool is_ignored(int signal) {
  struct sigaction action {};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

struct Signals::Impl {
  UniqueFd event;
  std::stop_source stop;
  std::jthread watcher;
};

Signals::Signals() : impl_(std::make_unique<Impl>()) {
  impl_->event = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!impl_->event) throw_errno("eventfd", errno);
  g_event = impl_->event.get();
  g_seen = 0;
  g_can_stop = false;
  set_handler(SIGPIPE, SIG_IGN);
  for (const int signal : kSignals) {
    if (!is_ignored(signal)) set_handler(signal, on_signal);
  }
  set_handler(SIGUSR1, on_status_request);
  impl_->watcher = std::jthread([this](const std::stop_token& end) {
    std::uint64_t count = 0;
    while (!end.stop_requested()) {
      if (::read(impl_->event.get(), &count, sizeof count) != sizeof count) continue;
      if (g_status_asked.exchange(false)) {
        auto answer = status_answer().lock();
        if (*answer) (*answer)();
      }
      if (g_seen > 0) impl_->stop.request_stop();
    }
  });
}

Signals::~Signals() {
  set_handler(SIGUSR1, SIG_IGN);
  for (const int signal : kSignals) {
    if (!is_ignored(signal)) set_handler(signal, SIG_DFL);
  }
  impl_->watcher.request_stop();
  wake_watcher();
}

std::stop_token Signals::token() {
  g_can_stop = true;
  return impl_->stop.get_token();
}

void answer_status_requests(std::function<void()> answer) { *status_answer().lock() = std::move(answer); }

}  // namespace isr
