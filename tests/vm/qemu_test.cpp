// Starts the real QEMU under TCG with nothing but its BIOS: seconds, no guest.
#include "vm/qemu.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "support/error_kind.h"
#include "vm/kvm_probe.h"

using namespace isr;
using test::kind_thrown;

namespace {

const Accelerator kTcg{"tcg", "for tests"};

struct Machine {
  Machine() {
    settings.memory_bytes = 32 * kMiB;
    files.name = "test";
    files.memory = directory.path() / "memory.raw";
    const auto memory = open_file(files.memory, O_RDWR | O_CREAT);
    REQUIRE(::ftruncate(memory.get(), static_cast<off_t>(settings.memory_bytes)) == 0);
    options.run_directory = directory.path() / "run";
  }
  std::unique_ptr<Qemu> start() const { return Qemu::start_paused(settings, files, kTcg, options); }
  std::unique_ptr<Qemu> resume(ByteView state) const {
    return Qemu::resume_paused(settings, files, kTcg, options, state);
  }
  bool memory_is_zero() const { return is_zero(read_file(files.memory, settings.memory_bytes)); }

  TempDirectory directory;
  VmSettings settings;
  VmFiles files;
  QemuOptions options;
};

bool is_alive(pid_t pid) { return ::kill(pid, 0) == 0; }

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK((error.kind() == ErrorKind::kVm));
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a machine is saved, ended, and resumed from its memory file", "[vm]") {
  Machine machine;
  const Bytes first = [&] {
    const auto qemu = machine.start();
    CHECK(qemu->status().state == "prelaunch");
    CHECK(machine.memory_is_zero());
    CHECK((qemu->stamp() == stamp_here(machine.settings, kTcg)));
    qemu->cont();
    CHECK(qemu->status().running);
    CHECK((kind_thrown([&] { qemu->save_device_state(); }) == ErrorKind::kVm));
    qemu->stop();
    Bytes state = qemu->save_device_state();
    CHECK(qemu->status().state == "postmigrate");

    qemu->cont();  // a checkpoint goes on
    CHECK(qemu->status().running);
    qemu->stop();
    state = qemu->save_device_state();
    qemu->quit();
    CHECK((qemu->exit()->reason == VmExit::Reason::kQuit));
    CHECK((kind_thrown([&] { qemu->cont(); }) == ErrorKind::kVm));
    return state;
  }();
  CHECK(first.size() > 1000);
  CHECK(first.size() < machine.settings.memory_bytes / 4);  // memory is not in it

  const auto qemu = machine.resume(first);
  CHECK(qemu->status().state == "paused");
  qemu->cont();
  CHECK(qemu->status().running);
  const pid_t pid = qemu->pid();
  qemu->kill();
  CHECK((qemu->exit()->reason == VmExit::Reason::kKilled));
  CHECK_FALSE(is_alive(pid));
}

TEST_CASE("what QEMU shows the world is private, and the guest's words are not on disk", "[vm]") {
  Machine machine;
  const auto qemu = machine.start();
  struct stat info {};
  REQUIRE(::stat(qemu->vnc_socket().c_str(), &info) == 0);
  CHECK((info.st_mode & 0077U) == 0);
  REQUIRE(::stat(machine.options.run_directory.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777U) == 0700);
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(machine.options.run_directory)) ++entries;
  CHECK(entries == 1);
}

TEST_CASE("a machine saved with a CD in its drive is resumed without one", "[vm]") {
  Machine machine;
  machine.settings.machine = "pc-i440fx-7.2";
  machine.files.cdrom = machine.directory.path() / "install.iso";
  REQUIRE(::ftruncate(open_file(*machine.files.cdrom, O_RDWR | O_CREAT).get(), 1 << 20) == 0);
  auto qemu = machine.start();
  const Bytes state = qemu->save_device_state();
  qemu->quit();
  qemu.reset();
  machine.files.cdrom.reset();
  CHECK_FALSE(machine.resume(state)->status().running);
}

TEST_CASE("device state that is damaged, too long or empty is told, not hung on", "[vm]") {
  Machine machine;
  CHECK(message_of([&] { machine.resume(as_bytes("not a migration stream")); }).starts_with("QEMU has ended: "));
  CHECK(message_of([&] { machine.resume({}); }).starts_with("QEMU"));
  CHECK((kind_thrown([&] { machine.resume(Bytes(kMaxDeviceState + 1)); }) == ErrorKind::kCorrupt));
}

TEST_CASE("a QEMU that cannot start says why", "[vm]") {
  Machine machine;
  SECTION("its program is absent") {
    machine.options.program = "qemu-system-no-such-thing";
    CHECK(message_of([&] { machine.start(); }) == "qemu-system-no-such-thing is not installed");
  }
  SECTION("its program is another") {
    machine.options.program = "/bin/false";
    CHECK(message_of([&] { machine.start(); }) == "QEMU has ended: exit code 1");
  }
  SECTION("a disk is absent") {
    machine.files.disks.push_back({"/nonexistent/disk.raw", "disk", false});
    CHECK(message_of([&] { machine.start(); }).find("Could not open '/nonexistent/disk.raw'") != std::string::npos);
  }
  SECTION("a disk is in use by another QEMU") {
    const auto disk = machine.directory.path() / "disk.raw";
    REQUIRE(::ftruncate(open_file(disk, O_RDWR | O_CREAT).get(), 1 << 20) == 0);
    machine.files.disks.push_back({disk, "disk", false});
    const auto first = machine.start();
    machine.options.run_directory = machine.directory.path() / "run2";
    CHECK(message_of([&] { machine.start(); }).find("lock") != std::string::npos);
  }
}

TEST_CASE("the end of QEMU is noticed and told", "[vm]") {
  Machine machine;
  std::atomic<int> exits = 0;
  machine.options.on_event = [&](const VmEvent& e) { exits += e.kind == VmEventKind::kExited ? 1 : 0; };
  SECTION("when somebody kills it") {
    const auto qemu = machine.start();
    ::kill(qemu->pid(), SIGSEGV);
    const auto exit = qemu->wait_exit({std::chrono::seconds(60), {}});
    REQUIRE(exit.has_value());
    CHECK((exit->reason == VmExit::Reason::kDied));
    CHECK(exit->detail.find("Segmentation fault") != std::string::npos);
    CHECK(exits == 1);
    CHECK(message_of([&] { qemu->cont(); }).starts_with("QEMU has ended: "));
  }
  SECTION("when its object goes") {
    const pid_t pid = machine.start()->pid();
    CHECK_FALSE(is_alive(pid));
    CHECK(exits == 1);
  }
}

TEST_CASE("waiting for a guest has an end", "[vm]") {
  Machine machine;
  const auto qemu = machine.start();
  CHECK_FALSE(qemu->wait_exit({std::chrono::milliseconds(1), {}}).has_value());
  CHECK_FALSE(qemu->power_down({std::chrono::milliseconds(50), {}}));  // paused: nobody hears the button
  std::stop_source stop;
  stop.request_stop();
  CHECK((kind_thrown([&] {
           qemu->power_down({std::chrono::minutes(10), stop.get_token()});
         }) == ErrorKind::kCancelled));
}
