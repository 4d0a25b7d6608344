#include "daemon/end_wait.h"

#include <pthread.h>
#include <signal.h>

#include <catch2/catch.hpp>
#include <future>

using namespace isr;
using namespace std::chrono_literals;

namespace {

/// Blocks SIGTERM like block_signals(), so that it waits for a signalfd. The destructor takes pending ones and unblocks
/// it.
class BlockedSignals {
 public:
  BlockedSignals() {
    ::sigemptyset(&ours_);
    ::sigaddset(&ours_, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &ours_, &before_);
  }
  ~BlockedSignals() {
    const timespec now{};
    while (::sigtimedwait(&ours_, nullptr, &now) > 0) {
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

  static void send() { ::pthread_kill(::pthread_self(), SIGTERM); }

 private:
  sigset_t ours_{};
  sigset_t before_{};
};

std::chrono::steady_clock::time_point in(std::chrono::milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}

}  // namespace

TEST_CASE("await_done() returns when the work is done, the time is up or a second signal comes", "[daemon]") {
  const BlockedSignals signals;
  EndWait end;
  SECTION("the work is done") {
    end.done();
    CHECK(end.await_done(EndWait::Cause::kSignal, in(1h)));
  }
  SECTION("the time is up") {
    const auto until = in(50ms);
    CHECK_FALSE(end.await_done(EndWait::Cause::kSignal, until));
    CHECK(std::chrono::steady_clock::now() >= until);
  }
  SECTION("a second signal comes") {
    BlockedSignals::send();
    CHECK(end.wait(in(1h)) == EndWait::Cause::kSignal);
    BlockedSignals::send();
    const auto until = in(10s);
    CHECK_FALSE(end.await_done(EndWait::Cause::kSignal, until));
    CHECK(std::chrono::steady_clock::now() < until);
  }
  SECTION("the signal of an announced shutdown counts as the first") {
    end.shutdown_begins();
    CHECK(end.wait(in(1h)) == EndWait::Cause::kShutdown);
    BlockedSignals::send();
    const auto until = in(50ms);
    CHECK_FALSE(end.await_done(EndWait::Cause::kShutdown, until));
    CHECK(std::chrono::steady_clock::now() >= until);
  }
}

TEST_CASE("save_in_time() returns false when the time is up before the save is done", "[daemon]") {
  const BlockedSignals signals;
  EndWait end;
  std::promise<void> disk_answers;
  std::promise<void> saved;
  CHECK_FALSE(end.save_in_time(EndWait::Cause::kSignal, 50ms, [&] {
    disk_answers.get_future().wait();
    end.done();
    saved.set_value_at_thread_exit();
  }));
  disk_answers.set_value();
  saved.get_future().wait();
  bool is_saved = false;
  CHECK(end.save_in_time(EndWait::Cause::kSignal, 1h, [&] {
    is_saved = true;
    end.done();
  }));
  CHECK(is_saved);
}
