#include "machine/rehearsal.h"

#include <catch2/catch.hpp>
#include <future>

#include "base/sleep.h"
#include "machine/fake_vm.h"
#include "session/session_state.h"
#include "support/session_parts.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

using Calls = std::vector<std::string>;
constexpr std::uint8_t kMemory = 1;  // its position among the images

/// A session with suspended memory that no version has.
struct Place : test::CheckedOut {
  test::FakeGuest guest;
  std::optional<Session> session;
  Bytes devices = test::random_bytes(5000, 5);
  RehearsalOptions options{.under_tcg = 1ms, .deadline = 1h, .memory = "private"};

  explicit Place(bool suspended = true) {
    account.host.paths.runtime = directory.path() / "runtime";
    make_private_directory(account.host.paths.runtime);
    session.emplace(account, parcel);
    if (!suspended) return;
    session->memory().begin(true)->write(0, test::random_bytes(2 * kChunkSize, 2));
    session->memory().begin_run(true);
    session->memory().keep({test::some_stamp(), devices, {}});
    session->memory().abandon();
  }
  std::unique_ptr<Rehearsal> rehearse() {
    return std::make_unique<Rehearsal>(*session, account.host.paths, parcel.id, std::make_shared<test::FakeHost>(guest),
                                       options);
  }
  /// Reads a page of memory as the guest.
  void touch(std::uint64_t page) {
    Bytes bytes(kPageSize);
    guest.image("memory.raw").read(page * kPageSize, bytes);
  }
  bool has_directories() const {
    const Paths& paths = account.host.paths;
    return fs::exists(mount_directory(paths, parcel.id).string() + "-rehearsal") ||
           fs::exists(vm_directory(paths, parcel.id).string() + "-rehearsal");
  }
};

const std::vector<BootPlace> kTouched{{kMemory, 9}, {kMemory, 3}};

}  // namespace

TEST_CASE("a rehearsal returns the pages that the guest reads first, in their order, when it is taken", "[machine]") {
  Place place;
  place.guest.before["cont"] = [&] {
    CHECK(place.has_directories());
    CHECK(place.guest.mounted == Calls{"disk.raw", "memory.raw"});
    CHECK(place.guest.is_isolated);
    place.touch(9);
    place.touch(3);
  };
  const BootOrder order = place.rehearse()->take();
  CHECK(order.pages == kTouched);
  CHECK((place.guest.device_state == place.devices));
  CHECK(place.guest.calls == Calls{"mount", "load", "cont", "wait", "unmount"});
  CHECK_FALSE(place.has_directories());
}

TEST_CASE("a rehearsal leaves the session's memory unchanged when its guest writes", "[machine]") {
  Place place;
  Bytes before(kPageSize);
  place.session->images().image("memory")->read(0, before);
  place.guest.before["cont"] = [&] { place.guest.image("memory.raw").write(0, Bytes(kPageSize)); };
  place.rehearse()->take();
  Bytes after(kPageSize);
  place.session->images().image("memory")->read(0, after);
  CHECK((before == after));
}

TEST_CASE("a rehearsal returns the pages read until then when it fails", "[machine]") {
  Place place;
  place.guest.before["load"] = place.guest.before["cont"] = [&] { place.touch(9); };
  std::string failing;
  std::vector<BootPlace> expected{{kMemory, 9}};
  SECTION("because the mount fails") {
    failing = "mount";
    expected.clear();
  }
  SECTION("because QEMU does not start") { failing = "load"; }
  SECTION("because the guest does not run") { failing = "cont"; }
  place.guest.fails = {failing};
  CHECK(place.rehearse()->take().pages == expected);
  CHECK_FALSE(place.guest.was_called("wait"));
  CHECK_FALSE(place.has_directories());
}

TEST_CASE("a rehearsal ends and returns the pages read until then when it reaches its deadline", "[machine]") {
  Place place;
  std::promise<void> touched;
  const auto touch = [&] {
    place.touch(9);
    touched.set_value();
  };
  SECTION("because the guest runs on") {
    place.options.under_tcg = 1h;
    place.guest.before["cont"] = touch;
  }
  SECTION("because QEMU does not answer") {
    place.guest.before["load"] = [&] {
      touch();
      sleep_unless_stopped(1h, place.guest.patience.stop);
      throw Error(ErrorKind::kCancelled, "stopped");
    };
  }
  place.options.deadline = 1ms;
  const auto rehearsal = place.rehearse();
  touched.get_future().wait();
  CHECK(rehearsal->take().pages == std::vector<BootPlace>{{kMemory, 9}});
  CHECK(place.guest.calls.back() == "unmount");
  CHECK_FALSE(place.has_directories());
}

TEST_CASE("a rehearsal ends and removes its directories when it is destroyed", "[machine]") {
  Place place;
  place.options.under_tcg = 1h;
  auto rehearsal = place.rehearse();
  rehearsal.reset();
  CHECK_FALSE(place.has_directories());
}

TEST_CASE("a rehearsal does nothing when the session has no suspended memory", "[machine]") {
  Place place(false);
  CHECK(place.rehearse()->take().pages.empty());
  CHECK(place.guest.calls.empty());
}
