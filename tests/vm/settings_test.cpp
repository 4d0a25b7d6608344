#include "vm/settings.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "support/error_kind.h"

using namespace isr;
using test::kind_thrown;
using Json = nlohmann::json;

namespace {

VmSettings some_settings() {
  VmSettings s;
  s.memory_bytes = 2048 * kMiB;
  s.cpus = 2;
  s.machine = "pc-i440fx-7.2";
  s.cpu_model = "Nehalem-v1";
  s.network = NetworkMode::kUser;
  return s;
}

VmStamp some_stamp() { return {1, "7.2.22", "pc-q35-7.2", "Westmere-v1", "tcg", ""}; }

bool refused(const Json& json) {
  return kind_thrown([&] { vm_settings_from_json(json); }) == ErrorKind::kCorrupt &&
         kind_thrown([&] { parse_vm_settings(json.dump()); }) == ErrorKind::kCorrupt;
}

std::string golden(const std::string& name) {
  std::string text(as_text(read_file(fs::path(ISR_GOLDEN_DIR) / "vm" / name, 4096)));
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace

TEST_CASE("VM settings are read back as they were stored", "[vm]") {
  CHECK((vm_settings_from_json(vm_settings_to_json({})) == VmSettings{}));
  CHECK((parse_vm_settings(vm_settings_to_json(some_settings()).dump()) == some_settings()));
  CHECK((parse_vm_settings(golden("settings-1.json")) == some_settings()));
  CHECK(vm_settings_to_json(some_settings()).dump() == golden("settings-1.json"));
}

TEST_CASE("VM settings that name resources of this host are refused", "[vm]") {
  const Json good = vm_settings_to_json({});
  for (const auto& [name, value] : std::vector<std::pair<std::string, Json>>{
           {"disk", "/etc/shadow"},
           {"memory_path", "/dev/mem"},
           {"qemu_args", Json::array({"-device", "vfio-pci,host=00:02.0"})},
           {"hostfwd", "tcp::22-:22"},
           {"shared_folder", "/home"},
           {"kernel", "/boot/vmlinuz"},
           {"", ""},
       }) {
    Json bad = good;
    bad[name] = value;
    CHECK(refused(bad));
  }
}

TEST_CASE("VM settings out of bounds are refused", "[vm]") {
  const Json good = vm_settings_to_json({});
  const auto with = [&](const char* name, Json value) {
    Json out = good;
    out[name] = std::move(value);
    return out;
  };
  for (const char* name : {"memory_bytes", "cpus", "machine", "cpu_model", "network"}) {
    Json bad = good;
    bad.erase(name);
    CHECK(refused(bad));
    CHECK(refused(with(name, nullptr)));
    CHECK(refused(with(name, Json::object())));
    CHECK(refused(with(name, "x")));
    CHECK(refused(with(name, -1)));
    CHECK(refused(with(name, 1e300)));
  }
  CHECK(refused(with("memory_bytes", 0)));
  CHECK(refused(with("memory_bytes", kMinMemory - kMiB)));
  CHECK(refused(with("memory_bytes", kMinMemory + 1)));
  CHECK(refused(with("memory_bytes", kMaxMemory + kMiB)));
  CHECK(refused(with("cpus", 0)));
  CHECK(refused(with("cpus", kMaxCpus + 1)));
  for (const char* machine :
       {"q35", "pc", "pc-q35-", "pc-q35-7.2,kernel=/x", "pc-q35-7.2 ", "pc-q35-7", "microvm", "none"})
    CHECK(refused(with("machine", machine)));
  for (const char* cpu : {"host", "max", "Westmere", "Westmere-v1,+vmx", ""}) CHECK(refused(with("cpu_model", cpu)));
  for (const char* network : {"", "bridge", "user,hostfwd=tcp::1-:1"}) CHECK(refused(with("network", network)));
}

TEST_CASE("VM settings must be a flat JSON object without repeated names", "[vm]") {
  std::string twice = vm_settings_to_json({}).dump();
  twice.insert(1, "\"cpus\":1,");
  for (const std::string& text :
       {std::string(), std::string("null"), std::string("[]"), std::string("{"), std::string(4097, ' '),
        std::string(4000, '['), std::string("{\"cpus\":\"\xff\"}"), twice, vm_settings_to_json({}).dump() + "x"})
    CHECK((kind_thrown([&] { parse_vm_settings(text); }) == ErrorKind::kCorrupt));
}

TEST_CASE("bad settings from a user are usage errors", "[vm]") {
  VmSettings s;
  CHECK_NOTHROW(check_vm_settings(s));
  s.cpus = 0;
  CHECK((kind_thrown([&] { check_vm_settings(s); }) == ErrorKind::kUsage));
}

TEST_CASE("a VM stamp is read back as it was stored, and other text is refused", "[vm]") {
  CHECK((parse_vm_stamp(vm_stamp_to_json(some_stamp()).dump()) == some_stamp()));
  CHECK(vm_stamp_to_json(some_stamp()).dump() == golden("stamp-1.json"));
  CHECK((parse_vm_stamp(golden("stamp-1.json")) == some_stamp()));
  for (const auto& [name, value] : std::vector<std::pair<std::string, Json>>{{"extra", 1},
                                                                             {"qemu_version", "new"},
                                                                             {"accelerator", "xen"},
                                                                             {"device_layout", -1},
                                                                             {"cpu_vendor", std::string(65, 'x')},
                                                                             {"machine", "a\nb"}}) {
    Json bad = vm_stamp_to_json(some_stamp());
    bad[name] = value;
    CHECK((kind_thrown([&] { vm_stamp_from_json(bad); }) == ErrorKind::kCorrupt));
  }
}

TEST_CASE("memory is loaded only where its devices fit", "[vm]") {
  const VmStamp saved = some_stamp();
  VmStamp here = saved;
  CHECK_FALSE(why_incompatible(saved, here).has_value());
  SECTION("a newer QEMU does") {
    here.qemu_version = "10.0.2";
    CHECK_FALSE(why_incompatible(saved, here).has_value());
    CHECK(why_incompatible(here, saved) == "it was saved by QEMU 10.0.2, here is the older 7.2.22");
  }
  SECTION("a patch release more or less does") {
    here.qemu_version = "7.2.4";
    CHECK_FALSE(why_incompatible(saved, here).has_value());
  }
  SECTION("another accelerator does not") {
    here.accelerator = "kvm";
    here.cpu_vendor = "AuthenticAMD";
    CHECK(why_incompatible(saved, here) == "it was saved under tcg, here VMs run under kvm");
    VmStamp other = here;
    other.cpu_vendor = "GenuineIntel";
    CHECK(why_incompatible(other, here) == "it was saved on a GenuineIntel processor, here is a AuthenticAMD");
  }
  SECTION("a QEMU without the machine does not") {
    here.machine.clear();
    CHECK(why_incompatible(saved, here) == "QEMU 7.2.22 here has no machine pc-q35-7.2");
  }
  SECTION("another CPU model or device layout does not") {
    here.cpu_model = "Nehalem-v1";
    CHECK(why_incompatible(saved, here).has_value());
    here = saved;
    here.device_layout = 2;
    CHECK(why_incompatible(saved, here).has_value());
  }
}
