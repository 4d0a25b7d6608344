#include "machine/awakening.h"

#include <atomic>
#include <catch2/catch.hpp>

#include "base/error.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

constexpr AwakeningTimes kQuick{20ms, 5ms, 60s};

struct Guest {
  std::atomic<int> refusals{0};  // the next calls that fail to put the cable in
  std::atomic<bool> answers{true};
  std::atomic<bool> cable_is_in{true};
  std::atomic<int> times_out{0}, times_asked{0};

  WakingGuest waking() {
    WakingGuest guest;
    guest.set_link = [this](bool up) {
      if (up && refusals-- > 0) throw Error(ErrorKind::kVm, "set_link: not now");
      if (!up) ++times_out;
      cable_is_in = up;
    };
    guest.agent_listens = [] { return true; };
    guest.set_clock = [this](const Patience& patience) {
      ++times_asked;
      const auto deadline = std::chrono::steady_clock::now() + patience.timeout;
      while (!answers && !patience.stop.stop_requested() && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::sleep_for(1ms);
      }
      return answers.load();
    };
    return guest;
  }
};

void wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (!condition() && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(1ms);
  REQUIRE(condition());
}

}  // namespace

TEST_CASE("an awakening takes the cable out once and sets the clock when a guest was resumed", "[machine]") {
  Guest guest;
  Awakening awakening(guest.waking(), kQuick);
  awakening.go_on();
  wait_until([&] { return !awakening.words().empty() && guest.times_out == 1 && guest.cable_is_in; });
  CHECK(awakening.words() == "the agent in the guest has set its clock");
  awakening.pause();
  awakening.go_on();
  awakening.pause();
  CHECK(guest.times_out == 1);
  CHECK(guest.times_asked == 1);
}

TEST_CASE("an awakening puts the cable in when it is paused, and repeats its unfinished steps when it goes on",
          "[machine]") {
  Guest guest;
  guest.answers = false;
  Awakening awakening(guest.waking(), {60s, 5ms, 60s});
  awakening.go_on();
  wait_until([&] { return guest.times_asked == 1 && !guest.cable_is_in; });
  awakening.pause();
  CHECK(guest.cable_is_in);
  CHECK(awakening.words().empty());
  guest.answers = true;
  awakening.go_on();
  wait_until([&] { return guest.times_out == 2; });
  wait_until([&] { return guest.times_asked == 2; });
  awakening.pause();
  CHECK(guest.cable_is_in);
  CHECK(awakening.words() == "the agent in the guest has set its clock");
}

TEST_CASE("an awakening tries to put the cable in again when QEMU refuses", "[machine]") {
  Guest guest;
  guest.refusals = 7;
  Awakening awakening(guest.waking(), kQuick);
  awakening.go_on();
  wait_until([&] { return guest.times_out == 1 && guest.cable_is_in; });
  CHECK(guest.refusals < 0);
}

TEST_CASE("an awakening tries only a few times to put the cable in when it is paused and QEMU refuses", "[machine]") {
  Guest guest;
  Awakening awakening(guest.waking(), {60s, 5ms, 60s});
  awakening.go_on();
  wait_until([&] { return !guest.cable_is_in; });
  SECTION("QEMU accepts the third time") {
    guest.refusals = 2;
    awakening.pause();
    CHECK(guest.cable_is_in);
  }
  SECTION("QEMU always refuses") {
    guest.refusals = 1000;
    awakening.pause();
    CHECK_FALSE(guest.cable_is_in);
    guest.refusals = 0;
    awakening.pause();
    CHECK(guest.cable_is_in);
  }
}

TEST_CASE("an awakening sets only the clock when the guest has no network", "[machine]") {
  Guest guest;
  WakingGuest waking = guest.waking();
  waking.set_link = nullptr;
  Awakening awakening(std::move(waking), kQuick);
  awakening.go_on();
  wait_until([&] { return !awakening.words().empty(); });
  CHECK(guest.times_out == 0);
}
