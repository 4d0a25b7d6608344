#include "daemon/session_daemon.h"

#include <catch2/catch.hpp>
#include <future>

#include "daemon/protocol.h"
#include "machine/fake_vm.h"
#include "session/session_state.h"
#include "support/comes_true.h"
#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

using Calls = std::vector<std::string>;
constexpr std::uint64_t kOffset = kChunkSize;

/// The daemon of a parcel that is checked out, on a thread of this process, with a fake VM.
struct Place : test::CheckedOut {
  test::FakeGuest guest;
  Bytes page = test::random_bytes(kPageSize, 4);
  std::future<void> daemon;

  Place() {
    account.host.paths.runtime = directory.path() / "runtime";
    make_private_directory(account.host.paths.runtime);
    guest.stamp = test::some_stamp();
    guest.stamp.cpu_vendor = "GenuineIntel";
    guest.device_state = test::random_bytes(5000, 5);
    account.host.config.override_with_flag("vm.memory", "private");
    account.host.config.override_with_flag("suspend.rehearsal", "false");  // a rehearsal would use the same fake guest
    std::promise<void> ready;
    daemon = std::async(std::launch::async, [this, &ready] {
      Handover handover = parse_handover(serialise_handover(account, parcel, ""));
      run_session_daemon(handover, std::make_shared<test::FakeHost>(guest), [&] {
        CHECK(handover.parcel.id.empty());
        ready.set_value();
      });
    });
    const auto is_ready = ready.get_future();
    while (is_ready.wait_for(10ms) != std::future_status::ready) {
      if (has_ended()) daemon.get();  // throws
    }
    guest.take_calls();
  }
  ~Place() {
    if (has_ended()) return;
    guest.fails.clear();
    guest.before.clear();
    ask(PowerOffRequest{});
    ask(CheckinRequest{});
    daemon.wait();
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  template <class OneRequest>
  typename OneRequest::Answer ask(const OneRequest& request) {
    return isr::ask(control_socket(account.host.paths, parcel.id), request);
  }
  template <class OneRequest>
  Error failure_of(const OneRequest& request) {
    try {
      ask(request);
    } catch (const Error& error) {
      return error;
    }
    FAIL("the request did not fail");
    throw Error(ErrorKind::kBug, "unreachable");
  }
  /// May be the last status, if the daemon is busy for longer than a status request waits.
  Status status() { return ask(StatusRequest{}); }
  /// Waits until a status meets the condition, and returns it.
  template <class Condition>
  Status status_when(const Condition& condition) {
    Status newest;
    CHECK(test::comes_true([&] { return condition(newest = status()); }));
    return newest;
  }
  /// Starts the guest, which then has written a page.
  void start() {
    CHECK_FALSE(ask(StartRequest{}).resumed);
    guest.pages[kOffset] = page;
    guest.take_calls();
  }
  void end_guest(VmExit::Reason reason) { *guest.exit.lock() = VmExit{reason, "signal 11"}; }
  bool has_ended() const { return !daemon.valid() || daemon.wait_for(0s) == std::future_status::ready; }
  bool ends() {
    const bool is_over = daemon.wait_for(1min) == std::future_status::ready;
    if (is_over) daemon.get();
    return is_over && !fs::exists(state_file());
  }
  LoadedVersion newest() { return load_version(account, parcel, {}); }
};

}  // namespace

TEST_CASE("the daemon starts a guest and its status shows the VM", "[daemon]") {
  Place place;
  CHECK(place.status().session.phase == SessionPhase::kCheckedOut);
  CHECK_FALSE(place.status().vm.has_value());
  place.start();
  const Status status =
      place.status_when([&](const Status& now) { return now.session.changed_bytes >= place.page.size(); });
  CHECK(status.session.phase == SessionPhase::kRunning);
  REQUIRE(status.vm.has_value());
  CHECK(status.vm->state == "running");
  CHECK(status.vm->memory == "private");
  CHECK(place.failure_of(StartRequest{}).kind() == ErrorKind::kVm);  // it runs already
  CHECK(place.status().vm.has_value());
}

TEST_CASE("the daemon publishes memory and ends when a guest is suspended", "[daemon]") {
  Place place;
  place.start();
  const PublishAnswer answer = place.ask(SuspendRequest{});
  CHECK(answer.memory == true);
  CHECK(answer.result.version == 2);
  CHECK(place.ends());
  CHECK(place.newest().version.suspended());
}

TEST_CASE("the daemon keeps memory here and resumes it when a guest is suspended without an upload", "[daemon]") {
  Place place;
  place.start();
  const PublishAnswer answer = place.ask(SuspendRequest{.upload = false});
  CHECK_FALSE(answer.uploaded);
  CHECK(place.status().session.phase == SessionPhase::kSuspended);
  CHECK(place.guest.mounted == Calls{"disk.raw"});
  CHECK(place.guest.is_immutable);
  place.guest.pages.clear();
  place.guest.take_calls();
  CHECK(place.ask(ResumeRequest{}).resumed);
  CHECK(place.guest.was_called("load"));
  CHECK(place.status().session.phase == SessionPhase::kRunning);
  Bytes bytes(kPageSize);
  place.guest.image("memory.raw").read(kOffset, bytes);
  CHECK((bytes == place.page));
}

TEST_CASE("the daemon lets the guest go on and keeps its session when a suspend fails", "[daemon]") {
  Place place;
  place.start();
  place.guest.fails = {"save"};
  CHECK(place.failure_of(SuspendRequest{}).kind() == ErrorKind::kVm);
  CHECK(place.guest.take_calls() == Calls{"stop", "save", "cont"});
  CHECK(place.status().session.phase == SessionPhase::kRunning);
  CHECK(place.newest().head.head.n == 1);
}

TEST_CASE("the daemon publishes a running guest and goes on when it is synced", "[daemon]") {
  Place place;
  place.start();
  const PublishAnswer answer = place.ask(SyncRequest{});
  CHECK(answer.result.version == 2);
  CHECK(answer.paused_ms.has_value());
  CHECK(place.guest.take_calls() == Calls{"stop", "save", "cont"});
  CHECK(place.newest().version.suspended());
  CHECK(place.status().vm.has_value());
}

TEST_CASE("the daemon publishes the disks and ends when the guest shuts down in time", "[daemon]") {
  Place place;
  place.start();
  place.guest.before["power down"] = [&] { place.end_guest(VmExit::Reason::kGuestShutdown); };
  place.guest.image("disk.raw").write(0, Bytes(512));
  CHECK(place.ask(StopRequest{}).result.version == 2);
  CHECK(place.ends());
  CHECK_FALSE(place.newest().version.suspended());
}

TEST_CASE("the daemon leaves a guest running that does not shut down in time, unless it is to be killed", "[daemon]") {
  Place place;
  place.start();
  CHECK(place.failure_of(StopRequest{.timeout = 0s}).kind() == ErrorKind::kVm);
  CHECK(place.guest.take_calls() == Calls{"power down"});
  CHECK(place.status().vm.has_value());
  place.ask(StopRequest{.timeout = 0s, .kill = true});
  CHECK(place.ends());
  CHECK(place.guest.was_called("kill"));
}

TEST_CASE("the daemon drops the memory and stays when a guest is switched off", "[daemon]") {
  Place place;
  place.start();
  CHECK(place.ask(PowerOffRequest{}).version == 1);
  CHECK(place.guest.was_called("kill"));
  CHECK(place.status().session.phase == SessionPhase::kCheckedOut);
  CHECK(place.guest.mounted == Calls{"disk.raw"});
}

TEST_CASE("the daemon notices by itself that a guest has ended", "[daemon]") {
  Place place;
  place.start();
  std::string expected = "the guest switched itself off";
  VmExit::Reason reason = VmExit::Reason::kGuestShutdown;
  SECTION("because it switched itself off") {}
  SECTION("because QEMU died") {
    reason = VmExit::Reason::kDied;
    expected = "QEMU has died: signal 11";
  }
  place.end_guest(reason);
  // The file on the disk changes without a request, and before the daemon has noted the event.
  CHECK(test::comes_true([&] { return place.written().phase == SessionPhase::kCheckedOut; }));
  const Status status = place.status_when([&](const Status& now) { return now.last_event == expected; });
  CHECK_FALSE(status.vm.has_value());
  CHECK(place.guest.mounted == Calls{"disk.raw"});
}

TEST_CASE("the daemon keeps the session with its disks mounted when a VM does not start", "[daemon]") {
  Place place;
  place.guest.fails = {"boot"};
  CHECK(place.failure_of(StartRequest{}).kind() == ErrorKind::kVm);
  const Status status = place.status();
  CHECK(status.session.phase == SessionPhase::kCheckedOut);
  CHECK_FALSE(status.vm.has_value());
  CHECK(place.guest.mounted == Calls{"disk.raw"});
  place.guest.fails.clear();
  place.start();
  CHECK(place.status().vm.has_value());
}

TEST_CASE("the daemon answers with a status when the VM does not answer", "[daemon]") {
  Place place;
  place.start();
  place.guest.fails = {"status"};
  place.status_when([](const Status& now) { return now.vm && now.vm->state == "not answering"; });
  CHECK(place.failure_of(SyncRequest{}).kind() == ErrorKind::kVm);
  CHECK(place.newest().head.head.n == 1);
  CHECK(place.status().session.phase == SessionPhase::kRunning);
}

TEST_CASE("the daemon refuses to check in a guest that runs", "[daemon]") {
  Place place;
  place.start();
  CHECK(place.failure_of(CheckinRequest{}).kind() == ErrorKind::kVm);
  CHECK(place.status().vm.has_value());
  CHECK(place.guest.calls.empty());
}

TEST_CASE("the daemon answers a status with the name of the command that is under way", "[daemon]") {
  Place place;
  place.start();
  std::promise<void> begun;
  std::promise<void> go_on;
  place.guest.before["power down"] = [&] {
    begun.set_value();
    go_on.get_future().wait();
  };
  auto stop = std::async(std::launch::async, [&] { return place.failure_of(StopRequest{.timeout = 0s}).kind(); });
  begun.get_future().wait();
  CHECK(place.status().busy == "stop");
  go_on.set_value();
  CHECK(stop.get() == ErrorKind::kVm);
  CHECK(place.status().busy.empty());
}
