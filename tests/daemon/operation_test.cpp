#include "daemon/operation.h"

#include <catch2/catch.hpp>
#include <future>

#include "base/error.h"
#include "base/sleep.h"
#include "support/error_kind.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

void wait_for_stop(const std::stop_token& stop) {
  sleep_unless_stopped(30s, stop);
  throw Error(stop.stop_requested() ? ErrorKind::kCancelled : ErrorKind::kTransient, "no answer");
}

}  // namespace

TEST_CASE("an operation stops idle work when a command waits", "[daemon]") {
  Operation operation;
  std::future<void> command;
  {
    REQUIRE(operation.try_lock_politely_for(0ms));
    const std::lock_guard lock(operation, std::adopt_lock);
    operation.work_idly({}, [&](const std::stop_token& stop) {
      command = std::async(std::launch::async, [&] {
        if (operation.try_lock_for(60s)) operation.unlock();
      });
      wait_for_stop(stop);
    });
  }
  command.get();

  SECTION("but not when no command waits") {
    const std::lock_guard lock(operation);
    bool is_stopped = true;
    operation.work_idly({}, [&](const std::stop_token& stop) { is_stopped = stop.stop_requested(); });
    CHECK_FALSE(is_stopped);
  }
}

TEST_CASE("an operation begins no idle work when a command waits", "[daemon]") {
  Operation operation;
  bool worked = false;
  std::future<void> command;
  {
    const std::lock_guard lock(operation);
    operation.work_idly({}, [&](const std::stop_token& stop) {
      command = std::async(std::launch::async, [&] { const std::lock_guard wanted(operation); });
      wait_for_stop(stop);
    });
    operation.work_idly({}, [&](const std::stop_token&) { worked = true; });
  }
  CHECK_FALSE(worked);
}

TEST_CASE("an operation stops idle work when its stop is requested, and throws its error when it fails", "[daemon]") {
  Operation operation;
  std::stop_source source;
  const std::lock_guard lock(operation);
  operation.work_idly(source.get_token(), [&](const std::stop_token& stop) {
    source.request_stop();
    wait_for_stop(stop);
  });
  CHECK((test::kind_thrown([&] {
           operation.work_idly({}, [](const std::stop_token&) { throw Error(ErrorKind::kIo, "the disk"); });
         }) == ErrorKind::kIo));
}
