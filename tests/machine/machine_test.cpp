#include "machine/machine.h"

#include <catch2/catch.hpp>

#include "machine/fake_vm.h"
#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;

namespace {

using Calls = std::vector<std::string>;
constexpr std::uint64_t kOffset = kChunkSize;

struct Place : test::CheckedOut {
  test::FakeGuest guest;
  std::optional<Session> session;
  std::optional<Machine> machine;
  Bytes page = test::random_bytes(kPageSize, 4);
  Bytes devices = test::random_bytes(5000, 5);

  Place() {
    account.host.paths.runtime = directory.path() / "runtime";
    make_private_directory(account.host.paths.runtime);
    guest.stamp = test::some_stamp();
    guest.stamp.cpu_vendor = "GenuineIntel";
    session.emplace(account, parcel);
    machine.emplace(
        *session, account.host.paths, parcel.name, parcel.id, [] { return std::string("{}\n"); },
        std::make_shared<test::FakeHost>(guest));
    machine->disks().mount();
    guest.take_calls();
  }
  /// Returns true if it resumed.
  bool run(BootOptions options = {}) {
    options.memory = "private";
    return machine->start(options);
  }
  /// Starts the guest, which then has written a page.
  void start() {
    run();
    guest.pages[kOffset] = page;
    guest.device_state = devices;
    guest.take_calls();
  }
  void suspend() {
    start();
    machine->suspend();
    machine->disks().mount();
    guest.pages.clear();
    guest.take_calls();
  }
  std::optional<ErrorKind> start_fails(const BootOptions& options = {}) {
    return test::kind_thrown([&] { run(options); });
  }
  SessionPhase phase() const { return session->state().phase; }
  Bytes kept_page() const {
    Bytes bytes(kPageSize);
    session->images().image("memory")->read(kOffset, bytes);
    return bytes;
  }
};

}  // namespace

TEST_CASE("the machine writes the phase to disk and mounts memory before its guest runs", "[machine]") {
  Place place;
  bool was_written = false;
  place.guest.before["cont"] = [&] {
    was_written = place.written().phase == SessionPhase::kRunning;
    CHECK(place.guest.mounted == Calls{"disk.raw", "memory.raw"});
  };
  BootOptions options;
  options.network = NetworkMode::kNone;
  CHECK_FALSE(place.run(options));
  CHECK(was_written);
  CHECK_FALSE(place.guest.is_cable_in);
  CHECK(place.guest.take_calls() == Calls{"unmount", "mount", "boot", "cont"});
  CHECK(place.machine->running());
  CHECK((place.start_fails() == ErrorKind::kVm));  // it runs already
  CHECK(place.machine->running());
}

TEST_CASE("the machine leaves the session as it was, with its disks mounted, when a start fails", "[machine]") {
  Place place;
  const bool resumes = GENERATE(false, true);
  CAPTURE(resumes);
  if (resumes) place.suspend();
  const SessionPhase before = place.phase();
  const NetworkMode network_before = place.session->state().vm.network;
  BootOptions options;
  options.network = network_before == NetworkMode::kNone ? NetworkMode::kUser : NetworkMode::kNone;
  std::stop_source stop;
  ErrorKind expected = ErrorKind::kVm;
  bool comes_to_cont = false;
  SECTION("QEMU does not start") { place.guest.fails = {resumes ? "load" : "boot"}; }
  SECTION("before_run refuses it") {
    options.before_run = [] { throw Error(ErrorKind::kLocked, "refused"); };
    expected = ErrorKind::kLocked;
  }
  SECTION("the caller cancels it") {
    options.stop = stop.get_token();
    place.guest.before[resumes ? "load" : "boot"] = [&] { stop.request_stop(); };
    expected = ErrorKind::kCancelled;
  }
  SECTION("the guest does not begin to run") {
    place.guest.fails = {"cont"};
    comes_to_cont = true;
  }
  CHECK((place.start_fails(options) == expected));
  CHECK(place.guest.was_called("cont") == comes_to_cont);
  CHECK_FALSE(place.machine->running());
  CHECK(place.phase() == before);
  CHECK(place.written().phase == before);
  CHECK(place.written().vm.network == network_before);
  CHECK(place.guest.mounted == Calls{"disk.raw"});
  CHECK(place.guest.is_immutable == resumes);
  if (resumes) CHECK((place.kept_page() == place.page));
}

TEST_CASE("the machine drops suspended memory when its guest wrote to a disk before the resume failed", "[machine]") {
  Place place;
  place.suspend();
  place.guest.before["cont"] = [&] { place.session->images().image("disk")->write(0, Bytes(512)); };
  place.guest.fails = {"cont"};
  CHECK((place.start_fails() == ErrorKind::kVm));
  CHECK(place.phase() == SessionPhase::kCheckedOut);
  CHECK((place.kept_page() == Bytes(kPageSize)));
}

TEST_CASE("the machine keeps the guest's changed pages and devices when it suspends, and restores them when it resumes",
          "[machine]") {
  Place place;
  place.start();
  place.machine->suspend();
  CHECK(place.guest.take_calls() == Calls{"stop", "save", "quit", "unmount"});
  CHECK(place.phase() == SessionPhase::kSuspended);
  CHECK((place.kept_page() == place.page));
  CHECK_FALSE(place.machine->running());
  place.machine->disks().mount();
  CHECK(place.guest.is_immutable);
  place.guest.device_state.clear();
  CHECK(place.run());
  CHECK((place.guest.device_state == place.devices));
  CHECK(place.phase() == SessionPhase::kRunning);
}

TEST_CASE("the machine lets the guest run on when a suspend fails", "[machine]") {
  Place place;
  place.start();
  std::optional<test::UnwritableState> unwritable;
  SECTION("the device state cannot be saved") { place.guest.fails = {"save"}; }
  SECTION("the state file cannot be written") { unwritable.emplace(place); }
  CHECK_THROWS(place.machine->suspend());
  CHECK(place.guest.take_calls() == Calls{"stop", "save", "cont"});
  CHECK(place.machine->running());
  CHECK(place.phase() == SessionPhase::kRunning);
  unwritable.reset();
  place.guest.fails.clear();
  place.machine->suspend();
  CHECK((place.kept_page() == place.page));
}

TEST_CASE("the machine lets the guest run on later when it could not do so after a failed suspend", "[machine]") {
  Place place;
  place.start();
  CHECK_FALSE(place.machine->go_on_if_held());
  place.guest.fails = {"save", "cont"};
  CHECK_THROWS(place.machine->suspend());
  place.guest.fails.clear();
  CHECK(place.machine->go_on_if_held());
  CHECK_FALSE(place.machine->go_on_if_held());
  place.guest.is_held = true;  // by a disk that failed
  CHECK(place.machine->go_on_if_held());
}

TEST_CASE("a checkpoint calls freeze() while the guest is paused, and lets the guest run on also when freeze() fails",
          "[machine]") {
  Place place;
  place.start();
  bool fails = false;
  Calls at_freeze;
  const auto freeze = [&] {
    at_freeze = place.guest.calls;
    if (fails) throw Error(ErrorKind::kIo, "full");
  };
  SECTION("freeze() succeeds") {
    const MachineMoment moment = place.machine->checkpoint(freeze);
    CHECK((moment.device_state == place.devices));
    REQUIRE(moment.memory.sample.size() == 1);
    CHECK((moment.memory.sample[0].bytes == place.page));
    Bytes copied(kPageSize);
    place.session->memory().image()->read(kOffset, copied);
    CHECK((copied == place.page));
  }
  SECTION("freeze() fails") {
    fails = true;
    CHECK((test::kind_thrown([&] { place.machine->checkpoint(freeze); }) == ErrorKind::kIo));
  }
  CHECK(at_freeze == Calls{"stop", "save"});
  CHECK(place.guest.take_calls() == Calls{"stop", "save", "cont"});
}

TEST_CASE("the machine reports the end once and drops memory when the guest or QEMU ends by itself", "[machine]") {
  Place place;
  place.start();
  CHECK_FALSE(place.machine->reap().has_value());
  std::string expected = "the guest switched itself off";
  VmExit::Reason reason = VmExit::Reason::kGuestShutdown;
  SECTION("the guest switched itself off") {}
  SECTION("QEMU died") {
    reason = VmExit::Reason::kDied;
    expected = "QEMU has died: signal 11";
  }
  *place.guest.exit.lock() = VmExit{reason, "signal 11"};
  CHECK(place.machine->reap() == expected);
  CHECK_FALSE(place.machine->reap().has_value());
  CHECK(place.phase() == SessionPhase::kCheckedOut);
  CHECK(place.guest.mounted == Calls{"disk.raw"});
  CHECK_FALSE(place.guest.was_called("kill"));
}

TEST_CASE("the machine kills the guest and drops its memory when it is powered off", "[machine]") {
  Place place;
  place.start();
  CHECK_FALSE(place.machine->power_down({std::chrono::milliseconds(1), {}}));
  place.machine->power_off();
  CHECK(place.guest.was_called("kill"));
  CHECK_FALSE(place.machine->running());
  CHECK(place.phase() == SessionPhase::kCheckedOut);
  CHECK(place.written().phase == SessionPhase::kCheckedOut);
}

TEST_CASE("the machine powers the guest off when the state file cannot be written, and writes that as soon as it can",
          "[machine]") {
  Place place;
  place.start();
  {
    const test::UnwritableState unwritable(place);
    CHECK_THROWS(place.machine->power_off());
    CHECK_FALSE(place.machine->running());
    CHECK_THROWS(place.session->write_state_if_behind());
  }
  CHECK(place.written().phase == SessionPhase::kRunning);
  place.session->write_state_if_behind();
  CHECK(place.written().phase == SessionPhase::kCheckedOut);
}

TEST_CASE("the machine keeps suspended memory when the state file cannot be written at a power-off", "[machine]") {
  Place place;
  place.suspend();
  {
    const test::UnwritableState unwritable(place);
    CHECK_THROWS(place.machine->power_off());
  }
  CHECK(place.phase() == SessionPhase::kSuspended);
  CHECK(place.written().phase == SessionPhase::kSuspended);
  CHECK((place.kept_page() == place.page));
  place.machine->disks().try_to_mount();
  CHECK(place.guest.is_immutable);
  place.machine->power_off();
  CHECK(place.written().phase == SessionPhase::kCheckedOut);
}

TEST_CASE("the machine keeps memory and network when a resume fails on a full disk, also if the session is closed next",
          "[machine]") {
  Place place;
  place.suspend();
  const NetworkMode network = place.session->state().vm.network;
  BootOptions options;
  options.network = network == NetworkMode::kNone ? NetworkMode::kUser : NetworkMode::kNone;
  std::optional<test::UnwritableState> unwritable;
  place.guest.before["cont"] = [&] { unwritable.emplace(place); };
  place.guest.fails = {"cont"};
  CHECK((place.start_fails(options) == ErrorKind::kVm));
  unwritable.reset();
  CHECK(place.written().phase == SessionPhase::kRunning);
  place.machine.reset();
  place.session.reset();
  CHECK(place.written().phase == SessionPhase::kSuspended);
  CHECK(place.written().vm.network == network);
}

TEST_CASE("a checkpoint and a suspend keep the pages that the guest wrote when an earlier checkpoint was made before",
          "[machine]") {
  Place place;
  place.start();
  const auto kept = [&](std::uint64_t offset) {
    Bytes bytes(kPageSize);
    place.session->memory().image()->read(offset, bytes);
    return bytes;
  };
  place.machine->checkpoint([] {});
  CHECK_FALSE(place.guest.is_tracked);
  for (const std::uint64_t seed : {6, 7}) {
    const std::uint64_t offset = kOffset + seed * kPageSize;
    place.guest.pages[offset] = test::random_bytes(kPageSize, seed);
    const Bytes late = test::random_bytes(kPageSize, seed + 10);
    place.guest.before["stop"] = [&] { place.guest.write(offset, late); };  // after the copies of the running guest
    place.machine->checkpoint([&] { CHECK((kept(offset) == late)); });
    CHECK_FALSE(place.guest.is_tracked);
  }
  place.guest.before.clear();
  place.machine->suspend();
  CHECK((place.kept_page() == place.page));
}

TEST_CASE("the machine refuses to resume and keeps the memory when this host cannot load it", "[machine]") {
  Place place;
  place.suspend();
  place.guest.stamp.cpu_model = "another";
  CHECK((place.start_fails() == ErrorKind::kVm));
  CHECK(place.guest.calls.empty());
  CHECK(place.phase() == SessionPhase::kSuspended);
  CHECK((place.kept_page() == place.page));
}
