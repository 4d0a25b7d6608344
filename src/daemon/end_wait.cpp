#include "daemon/end_wait.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/stream_socket.h"

namespace isr {
namespace {

UniqueFd open_signals() {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGTERM);
  sigaddset(&wanted, SIGINT);
  UniqueFd fd(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) throw_errno("cannot watch for signals", errno);
  return fd;
}

/// The time left for poll(): in milliseconds, -1 without a limit.
int time_left(std::optional<std::chrono::steady_clock::time_point> until) {
  if (!until) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 1'000'000));
}

}  // namespace

EndWait::EndWait() : signals_(open_signals()), done_(make_event()), shutdown_(make_event()) {}

void EndWait::done() noexcept { raise_event(done_); }
void EndWait::shutdown_begins() noexcept { raise_event(shutdown_); }

EndWait::Cause EndWait::wait(std::optional<std::chrono::steady_clock::time_point> until) {
  std::array<pollfd, 3> wanted = {
      {{done_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}, {shutdown_.get(), POLLIN, 0}}};
  for (;;) {
    const int ready = ::poll(wanted.data(), wanted.size(), time_left(until));
    if (ready == 0) return Cause::kTime;
    if (ready < 0) continue;
    if (wanted[0].revents != 0) return Cause::kDone;
    signalfd_siginfo signal{};
    if (wanted[1].revents != 0 && ::read(signals_.get(), &signal, sizeof signal) == sizeof signal) {
      return Cause::kSignal;
    }
    eventfd_t count = 0;
    if (wanted[2].revents != 0 && ::eventfd_read(shutdown_.get(), &count) == 0) return Cause::kShutdown;
  }
}

bool EndWait::await_done(Cause first, std::chrono::steady_clock::time_point until) {
  // The second signal ends the wait. After logind has announced a shutdown, systemd's signal is only the first.
  for (int signals = first == Cause::kSignal ? 1 : 0; signals < 2;) {
    const Cause cause = wait(until);
    if (cause == Cause::kDone) return true;
    if (cause == Cause::kTime) return false;
    if (cause == Cause::kSignal) ++signals;
  }
  return false;
}

bool EndWait::save_in_time(Cause first, std::chrono::steady_clock::duration limit, const std::function<void()>& save) {
  const auto until = std::chrono::steady_clock::now() + limit;
  std::thread saver;
  try {
    saver = std::thread(save);
  } catch (const std::system_error&) {
    save();
    return true;
  }
  const bool is_done = await_done(first, until);
  is_done ? saver.join() : saver.detach();
  return is_done;
}

}  // namespace isr
