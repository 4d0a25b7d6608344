// A stored object must have exactly the fields that this program writes. So a setting of a later version is refused
// instead of silently dropped, and no data can hide in an unread field.
#include "vm/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace isr {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxText = 4096;
constexpr unsigned kMaxDeviceLayout = 65535;

// Versioned names, whose features never change. The first four run under TCG
// too; `enforce` on the command line refuses a host that lacks a feature.
constexpr std::array<std::string_view, 8> kCpuModels = {"Westmere-v1",       "Nehalem-v1",     "Penryn-v1",
                                                        "qemu64-v1",         "SandyBridge-v1", "Haswell-v4",
                                                        "Skylake-Client-v3", "EPYC-v1"};

constexpr std::array<std::pair<NetworkMode, std::string_view>, 3> kNetworkModes = {
    {{NetworkMode::kNone, "none"}, {NetworkMode::kRestricted, "restricted"}, {NetworkMode::kUser, "user"}}};

bool is_digits(std::string_view text, std::size_t max_size) {
  return !text.empty() && text.size() <= max_size &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_versioned_machine(std::string_view name) {
  for (const std::string_view prefix : {"pc-q35-", "pc-i440fx-"}) {
    if (!name.starts_with(prefix)) continue;
    const auto version = name.substr(prefix.size());
    const auto dot = version.find('.');
    return dot != std::string_view::npos && is_digits(version.substr(0, dot), 2) &&
           is_digits(version.substr(dot + 1), 2);
  }
  return false;
}

/// The first fault of the settings, as text; nullopt when they are valid.
std::optional<std::string> find_fault(const VmSettings& s) {
  if (s.memory_bytes < kMinMemory || s.memory_bytes > kMaxMemory || s.memory_bytes % kMiB != 0)
    return fmt::format("memory of {} bytes: it must be 16 MiB to 512 GiB, in whole MiB", s.memory_bytes);
  if (s.cpus < 1 || s.cpus > kMaxCpus) return fmt::format("{} CPUs: the number must be 1 to {}", s.cpus, kMaxCpus);
  if (!is_versioned_machine(s.machine)) return "the machine must be pc-q35-X.Y or pc-i440fx-X.Y with a version";
  if (!is_known_cpu_model(s.cpu_model))
    return fmt::format("the CPU model must be one of {}", fmt::join(kCpuModels, ", "));
  return std::nullopt;
}

[[noreturn]] void fail(std::string_view what, std::string_view why) {
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: {}", what, why));
}

/// Reads an object's fields by name, each exactly once, and refuses any other field.
class Fields {
 public:
  Fields(const Json& json, std::string_view what) : json_(json), what_(what) {
    if (!json.is_object()) fail(what_, "is not a JSON object");
  }
  std::uint64_t number(const char* name, std::uint64_t max) {
    const Json& value = get(name);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > max)
      fail(what_, fmt::format("{} is not a number up to {}", name, max));
    return value.get<std::uint64_t>();
  }
  std::string text(const char* name, std::size_t max_size = 64) {
    const Json& value = get(name);
    if (!value.is_string()) fail(what_, fmt::format("{} is not text", name));
    const auto& text = value.get_ref<const std::string&>();
    const bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
    if (text.size() > max_size || !printable) fail(what_, fmt::format("{} is too long or not printable", name));
    return text;
  }
  void expect_end() const {
    if (json_.size() != read_) fail(what_, "holds an unknown field");
  }

 private:
  const Json& get(const char* name) {
    const auto found = json_.find(name);
    if (found == json_.end()) fail(what_, fmt::format("{} is missing", name));
    ++read_;
    return *found;
  }

  const Json& json_;
  std::string_view what_;
  std::size_t read_ = 0;
};

Json parse_small_json(std::string_view text, std::string_view what) {
  if (text.size() > kMaxText) fail(what, "is too long");
  // Accepts flat objects only, so that deep nesting cannot exhaust the stack. A repeated name is refused, because two
  // parsers could read it differently.
  bool deep = false;
  bool repeated = false;
  std::vector<std::string> names;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    deep = deep || depth > 1;
    if (event == Json::parse_event_t::key) {
      const auto& name = value.get_ref<const std::string&>();
      repeated = repeated || std::find(names.begin(), names.end(), name) != names.end();
      names.push_back(name);
    }
    return !deep;
  };
  Json json = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (json.is_discarded() || deep || repeated) fail(what, "is not a flat JSON object");
  return json;
}

constexpr std::string_view kSettingsName = "VM settings";
constexpr std::string_view kStampName = "VM stamp";

/// {7, 2} for "7.2.22".
std::optional<std::pair<int, int>> release_of(std::string_view version) {
  std::pair<int, int> out;
  const char* const end = version.data() + version.size();
  const auto major = std::from_chars(version.data(), end, out.first);
  if (major.ec != std::errc() || major.ptr == end || *major.ptr != '.') return std::nullopt;
  const auto minor = std::from_chars(major.ptr + 1, end, out.second);
  if (minor.ec != std::errc()) return std::nullopt;
  return out;
}

}  // namespace

std::string_view to_name(NetworkMode mode) noexcept {
  for (const auto& [value, name] : kNetworkModes)
    if (value == mode) return name;
  return "none";
}

std::optional<NetworkMode> find_network_mode(std::string_view name) noexcept {
  for (const auto& [value, known] : kNetworkModes)
    if (known == name) return value;
  return std::nullopt;
}

bool is_known_cpu_model(std::string_view name) noexcept {
  return std::find(kCpuModels.begin(), kCpuModels.end(), name) != kCpuModels.end();
}

void check_vm_settings(const VmSettings& settings) {
  if (const auto fault = find_fault(settings)) throw Error(ErrorKind::kUsage, *fault);
}

Json vm_settings_to_json(const VmSettings& s) {
  return Json{{"memory_bytes", s.memory_bytes},
              {"cpus", s.cpus},
              {"machine", s.machine},
              {"cpu_model", s.cpu_model},
              {"network", std::string(to_name(s.network))}};
}

VmSettings vm_settings_from_json(const Json& json) {
  Fields fields(json, kSettingsName);
  VmSettings out;
  out.memory_bytes = fields.number("memory_bytes", kMaxMemory);
  out.cpus = static_cast<unsigned>(fields.number("cpus", kMaxCpus));
  out.machine = fields.text("machine");
  out.cpu_model = fields.text("cpu_model");
  const auto network = fields.text("network");
  fields.expect_end();
  const auto mode = find_network_mode(network);
  if (!mode) fail(kSettingsName, "network must be none, restricted or user");
  out.network = *mode;
  if (const auto fault = find_fault(out)) fail(kSettingsName, *fault);
  return out;
}

VmSettings parse_vm_settings(std::string_view text) {
  return vm_settings_from_json(parse_small_json(text, kSettingsName));
}

Json vm_stamp_to_json(const VmStamp& s) {
  return Json{{"device_layout", s.device_layout}, {"qemu_version", s.qemu_version}, {"machine", s.machine},
              {"cpu_model", s.cpu_model},         {"accelerator", s.accelerator},   {"cpu_vendor", s.cpu_vendor}};
}

VmStamp vm_stamp_from_json(const Json& json) {
  Fields fields(json, kStampName);
  VmStamp out;
  out.device_layout = static_cast<unsigned>(fields.number("device_layout", kMaxDeviceLayout));
  out.qemu_version = fields.text("qemu_version");
  out.machine = fields.text("machine");
  out.cpu_model = fields.text("cpu_model");
  out.accelerator = fields.text("accelerator");
  out.cpu_vendor = fields.text("cpu_vendor");
  fields.expect_end();
  if (!release_of(out.qemu_version)) fail(kStampName, "qemu_version is not a version");
  if (out.accelerator != "kvm" && out.accelerator != "tcg") fail(kStampName, "accelerator is neither kvm nor tcg");
  return out;
}

VmStamp parse_vm_stamp(std::string_view text) { return vm_stamp_from_json(parse_small_json(text, kStampName)); }

std::optional<std::string> why_incompatible(const VmStamp& saved, const VmStamp& here) {
  if (here.device_layout != saved.device_layout)
    return fmt::format("it was saved with device layout {}, this program makes layout {}", saved.device_layout,
                       here.device_layout);
  if (here.machine != saved.machine)
    return fmt::format("QEMU {} here has no machine {}", here.qemu_version, saved.machine);
  if (here.cpu_model != saved.cpu_model)
    return fmt::format("it was saved with CPU model {}, here it would be {}", saved.cpu_model, here.cpu_model);
  // Versioned machines guarantee that a newer QEMU loads the state of an older one. The other way is not guaranteed.
  if (release_of(here.qemu_version) < release_of(saved.qemu_version))
    return fmt::format("it was saved by QEMU {}, here is the older {}", saved.qemu_version, here.qemu_version);
  if (here.accelerator != saved.accelerator)
    return fmt::format("it was saved under {}, here VMs run under {}", saved.accelerator, here.accelerator);
  if (here.cpu_vendor != saved.cpu_vendor)
    return fmt::format("it was saved on a {} processor, here is a {}", saved.cpu_vendor, here.cpu_vendor);
  return std::nullopt;
}

}  // namespace isr
