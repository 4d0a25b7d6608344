// Starts the real QEMU under TCG with nothing but its BIOS: seconds, no guest.
#include "vm/qemu.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/whole_file.h"
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
  Bytes memory() const { return read_file(files.memory, settings.memory_bytes); }
  bool memory_is_zero() const { return is_zero(memory()); }
  void keep_changed_memory(Qemu& qemu) const {
    const UniqueFd file = open_file(files.memory, O_RDWR);
    qemu.memory().visit_changed(
        [&](std::uint64_t offset, ByteView bytes) { write_all_at(file.get(), bytes, offset, files.memory); });
  }
  /// Until it has written to its memory; then pauses.
  void run_firmware(Qemu& qemu) const {
    qemu.cont();
    while (qemu.memory().changed().size() < 2 && memory_is_zero()) std::this_thread::yield();
    qemu.stop();
  }
  /// What the kernel says of the mapping: "rr" is among its flags.
  bool faults_read_single_pages(const Qemu& qemu) const {
    std::ifstream smaps(fmt::format("/proc/{}/smaps", qemu.pid()));
    bool ours = false;
    for (std::string line; std::getline(smaps, line);) {
      if (line.ends_with(files.memory.string())) ours = true;
      if (ours && line.starts_with("VmFlags:")) return (line + " ").find(" rr ") != std::string::npos;
    }
    throw Error(ErrorKind::kBug, "the memory file is not mapped");
  }

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
  machine.options.private_memory = GENERATE(true, false);
  CAPTURE(machine.options.private_memory);
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
    machine.keep_changed_memory(*qemu);
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

TEST_CASE("privately mapped memory stays in QEMU until it is read from there", "[vm]") {
  Machine machine;
  const auto booted = machine.start();
  REQUIRE((booted->memory().mapping() == MemoryMapping::kZeros));
  machine.run_firmware(*booted);
  const Bytes state = booted->save_device_state();
  CHECK(machine.memory_is_zero());
  machine.keep_changed_memory(*booted);
  const Bytes saved = machine.memory();
  CHECK_FALSE(is_zero(saved));
  booted->quit();

  const auto resumed = machine.resume(state);
  REQUIRE((resumed->memory().mapping() == MemoryMapping::kPrivate));
  CHECK(machine.faults_read_single_pages(*resumed));
  CHECK(resumed->memory().read_around());
  CHECK_FALSE(machine.faults_read_single_pages(*resumed));
  resumed->cont();
  resumed->stop();
  resumed->save_device_state();
  CHECK((machine.memory() == saved));
  // Every page that differs is told, and no page that was not touched.
  std::uint64_t changed = 0;
  for (const MemoryRange& run : resumed->memory().changed()) changed += run.size();
  CHECK(changed < machine.settings.memory_bytes / 2);
  resumed->cont();
  CHECK(resumed->status().running);
}

TEST_CASE("memory is shared when that is requested, or when QEMU does not load the library", "[vm]") {
  Machine machine;
  SECTION("wanted") { machine.options.private_memory = false; }
  SECTION("a program in between that cleans the environment") {
    machine.options.program = machine.directory.path() / "clean";
    replace_file(machine.options.program, as_bytes("#!/bin/sh\nunset LD_PRELOAD\nexec qemu-system-x86_64 \"$@\"\n"),
                 0700);
  }
  const auto booted = machine.start();
  CHECK((booted->memory().mapping() == MemoryMapping::kShared));
  machine.run_firmware(*booted);
  const Bytes state = booted->save_device_state();
  CHECK(booted->memory().changed().empty());
  CHECK_FALSE(booted->memory().read_around());
  CHECK_FALSE(machine.memory_is_zero());
  booted->quit();
  const auto resumed = machine.resume(state);
  CHECK((resumed->memory().mapping() == MemoryMapping::kShared));
  resumed->cont();
  CHECK(resumed->status().running);
}

TEST_CASE("a QEMU whose memory isr may not read gets the shared mapping", "[vm]") {
  if (::geteuid() == 0) return;  // root may read everything
  Machine machine;
  machine.options.private_memory = GENERATE(true, false);
  // A program that may be run and not read is hidden by the kernel.
  const auto hidden = machine.directory.path() / "qemu";
  fs::copy_file("/usr/bin/qemu-system-x86_64", hidden);
  fs::permissions(hidden, fs::perms::owner_exec);
  machine.options.program = machine.directory.path() / "run-hidden";
  replace_file(machine.options.program,
               as_bytes(fmt::format("#!/bin/sh\nexport QEMU_MODULE_DIR=/usr/lib/x86_64-linux-gnu/qemu\nexec {} -L "
                                    "/usr/share/qemu -L /usr/share/seabios -L "
                                    "/usr/lib/ipxe/qemu \"$@\"\n",
                                    hidden.string())),
               0700);
  std::atomic<int> exits = 0;
  machine.options.on_event = [&](const VmEvent& e) { exits += e.kind == VmEventKind::kExited ? 1 : 0; };
  const auto qemu = machine.start();
  CHECK((qemu->memory().mapping() == MemoryMapping::kShared));
  machine.run_firmware(*qemu);
  CHECK_FALSE(machine.memory_is_zero());
  CHECK(exits == 0);
}

TEST_CASE("a copy of memory that was begun while the machine ran is completed when it is paused", "[vm]") {
  Machine machine;
  auto qemu = machine.start();
  if (GENERATE(false, true)) {  // a mapping of zeros, or of the file
    const Bytes state = qemu->save_device_state();
    machine.keep_changed_memory(*qemu);
    qemu->quit();
    qemu = machine.resume(state);
  }
  GuestMemory& memory = qemu->memory();
  const auto own_before = memory.changed();
  const auto begun = memory.begin_tracking();
  if (!begun) {
    WARN("this kernel does not track what is written");
    return;
  }
  CHECK((*begun == own_before));
  Bytes copy = read_file(machine.files.memory, machine.settings.memory_bytes);
  Bytes exact = copy;
  const auto into = [](Bytes& bytes) {
    return [&bytes](std::uint64_t offset, ByteView part) {
      std::copy(part.begin(), part.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    };
  };
  memory.visit(*begun, into(copy));
  CHECK(memory.take_written().empty());
  qemu->cont();
  for (int round = 0; round < 3;) {
    const auto runs = memory.take_written();
    memory.visit(runs, into(copy));
    if (runs.empty()) {
      std::this_thread::yield();
    } else {
      ++round;
    }
  }
  qemu->stop();
  memory.visit(memory.take_written(), into(copy));
  memory.end_tracking();
  memory.visit_changed(into(exact));
  CHECK((copy == exact));

  CHECK((kind_thrown([&] { memory.take_written(); }) == ErrorKind::kIo));
  const auto own = memory.changed();
  const auto again = memory.begin_tracking();
  REQUIRE(again);
  CHECK((*again == own));
  CHECK(memory.take_written().empty());
}

TEST_CASE("without write tracking nothing is copied ahead, and all changes are found at the end", "[vm]") {
  Machine machine;
  machine.options.program = machine.directory.path() / "qemu";
  replace_file(machine.options.program,
               as_bytes(fmt::format("#!/bin/sh\nexec {}/../support/refuse.py userfaultfd qemu-system-x86_64 \"$@\"\n",
                                    ISR_GOLDEN_DIR)),
               0700);
  const auto qemu = machine.start();
  REQUIRE((qemu->memory().mapping() == MemoryMapping::kZeros));
  machine.run_firmware(*qemu);
  CHECK_FALSE(qemu->memory().begin_tracking());
  CHECK_FALSE(qemu->memory().changed().empty());
}

TEST_CASE("a sample of memory has the machine's bytes, in every mapping", "[vm]") {
  Machine machine;
  machine.options.private_memory = GENERATE(true, false);
  const auto booted = machine.start();
  machine.run_firmware(*booted);
  const auto check = [&](Qemu& qemu) {
    Bytes memory = machine.memory();
    qemu.memory().visit_changed([&](std::uint64_t offset, ByteView bytes) {
      std::copy(bytes.begin(), bytes.end(), memory.begin() + static_cast<std::ptrdiff_t>(offset));
    });
    const auto pages = qemu.memory().sample(64, 1);
    CHECK_FALSE(pages.empty());
    CHECK(pages.size() <= 64);
    for (const SampledPage& page : pages) {
      const auto at = memory.begin() + static_cast<std::ptrdiff_t>(page.offset);
      CHECK(std::equal(page.bytes.begin(), page.bytes.end(), at));
    }
  };
  const Bytes state = booted->save_device_state();
  check(*booted);
  CHECK(booted->memory().sample(3, 2).size() <= 3);
  machine.keep_changed_memory(*booted);
  booted->quit();
  const auto resumed = machine.resume(state);
  // It has nothing in memory before it has run for a moment.
  for (int round = 0; round < 200 && resumed->memory().sample(64, 1).empty(); ++round) {
    resumed->cont();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    resumed->stop();
  }
  resumed->save_device_state();
  check(*resumed);
}

TEST_CASE("a machine continues when copying its changed memory fails", "[vm]") {
  Machine machine;
  const auto qemu = machine.start();
  machine.run_firmware(*qemu);
  qemu->save_device_state();
  CHECK((kind_thrown([&] {
           qemu->memory().visit_changed([](std::uint64_t, ByteView) { throw Error(ErrorKind::kIo, "no space"); });
         }) == ErrorKind::kIo));
  qemu->cont();
  CHECK(qemu->status().running);
}

TEST_CASE("QEMU's sockets are private, and the guest's console is not on disk", "[vm]") {
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

TEST_CASE("damaged, too long or empty device state is an error, not a hang", "[vm]") {
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
  SECTION("its program is not QEMU") {
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

TEST_CASE("the end of QEMU is noticed and reported", "[vm]") {
  Machine machine;
  std::atomic<int> exits = 0;
  machine.options.on_event = [&](const VmEvent& e) { exits += e.kind == VmEventKind::kExited ? 1 : 0; };
  SECTION("when it is killed") {
    const auto qemu = machine.start();
    ::kill(qemu->pid(), SIGSEGV);
    const auto exit = qemu->wait_exit({std::chrono::seconds(60), {}});
    REQUIRE(exit.has_value());
    CHECK((exit->reason == VmExit::Reason::kDied));
    CHECK(exit->detail.find("Segmentation fault") != std::string::npos);
    CHECK(exits == 1);
    CHECK(message_of([&] { qemu->cont(); }).starts_with("QEMU has ended: "));
  }
  SECTION("when its Qemu object is destroyed") {
    const pid_t pid = machine.start()->pid();
    CHECK_FALSE(is_alive(pid));
    CHECK(exits == 1);
  }
}

TEST_CASE("waiting for a guest ends after the time-out", "[vm]") {
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
