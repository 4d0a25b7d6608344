#include "vm/command_line.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "base/file.h"
#include "support/error_kind.h"

using namespace isr;
using test::kind_thrown;

namespace {

VmFiles some_files() {
  VmFiles f;
  f.name = "work";
  f.memory = "/run/isr/mnt/memory.raw";
  f.disks = {{"/run/isr/mnt/disk.raw", "disk", false}, {"/run/isr/mnt/a,b.raw", "data", true}};
  return f;
}

/// One argument a line, options and values on the same.
std::string shown(const std::vector<std::string>& arguments) {
  std::string out;
  for (const auto& a : arguments) out += (a.starts_with('-') ? (out.empty() ? "" : "\n") : " ") + a;
  return out + "\n";
}

std::string golden(const std::string& name) {
  return std::string(as_text(read_file(fs::path(ISR_GOLDEN_DIR) / "vm" / name, 65536)));
}

bool has(const std::vector<std::string>& arguments, const std::string& part) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [&](const std::string& a) { return a.find(part) != std::string::npos; });
}

}  // namespace

TEST_CASE("QEMU's arguments match device layout 2", "[vm]") {
  // A change here is a new device layout unless old device state still loads.
  CHECK(shown(qemu_arguments({}, some_files(), "tcg", VmBegin::kPaused)) == golden("arguments-q35.txt"));
  VmSettings s;
  s.machine = "pc-i440fx-7.2";
  s.cpus = 2;
  s.memory_bytes = 4096 * kMiB;
  s.network = NetworkMode::kUser;
  VmFiles files = some_files();
  files.cdrom = "/home/me/install.iso";
  CHECK(shown(qemu_arguments(s, files, "kvm", VmBegin::kIncoming)) == golden("arguments-i440fx.txt"));
}

TEST_CASE("a VM starts paused, and waits for its state only when it resumes", "[vm]") {
  CHECK(has(qemu_arguments({}, some_files(), "tcg", VmBegin::kPaused), "-S"));
  CHECK_FALSE(has(qemu_arguments({}, some_files(), "tcg", VmBegin::kPaused), "-incoming"));
  CHECK(has(qemu_arguments({}, some_files(), "tcg", VmBegin::kIncoming), "-incoming"));
}

TEST_CASE(
    "the guest reaches the network only with the user mode and no isolation, and has the same devices in all modes",
    "[vm]") {
  VmSettings s;
  VmFiles files = some_files();
  CHECK(has(qemu_arguments(s, files, "tcg", VmBegin::kPaused), "restrict=on"));
  s.network = NetworkMode::kUser;
  CHECK(has(qemu_arguments(s, files, "tcg", VmBegin::kPaused), "restrict=off"));
  files.isolate_network = true;
  CHECK(has(qemu_arguments(s, files, "tcg", VmBegin::kPaused), "restrict=on"));
  s.network = NetworkMode::kNone;
  CHECK(has(qemu_arguments(s, files, "tcg", VmBegin::kPaused), "restrict=on"));
  s.network = NetworkMode::kRestricted;
  files.isolate_network = false;
  const auto restricted = qemu_arguments(s, files, "tcg", VmBegin::kPaused);
  s.network = NetworkMode::kNone;
  CHECK(qemu_arguments(s, files, "tcg", VmBegin::kPaused) == restricted);
}

TEST_CASE("a comma in a path cannot add an option", "[vm]") {
  VmFiles files = some_files();
  files.memory = "/x,share=off";
  files.cdrom = "/y,read-only=off";
  const auto arguments = qemu_arguments({}, files, "tcg", VmBegin::kPaused);
  CHECK(has(arguments, "mem-path=/x,,share=off,share=on"));
  CHECK(has(arguments, "file.filename=/y,,read-only=off,read-only=on"));
}

TEST_CASE("files and names that QEMU could misread are refused", "[vm]") {
  const auto kind_with = [](const std::function<void(VmFiles&, VmSettings&)>& change, const char* accelerator = "tcg") {
    VmFiles files = some_files();
    VmSettings settings;
    change(files, settings);
    return kind_thrown([&] { qemu_arguments(settings, files, accelerator, VmBegin::kPaused); });
  };
  CHECK((kind_with([](auto& f, auto&) { f.memory = "memory.raw"; }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto& f, auto&) { f.disks[0].file = "fat:rw:/home"; }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto& f, auto&) { f.disks[0].serial = "a,b"; }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto& f, auto&) { f.disks[0].serial = std::string(21, 'a'); }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto& f, auto&) { f.name = "a,process=b"; }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto& f, auto&) { f.name = ""; }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto& f, auto&) { f.disks.resize(kMaxDisks + 1, f.disks[0]); }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto&, auto& s) { s.machine = "pc"; }) == ErrorKind::kUsage));
  CHECK((kind_with([](auto&, auto&) {}, "xen") == ErrorKind::kUsage));
}
