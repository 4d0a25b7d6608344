#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

/// The description of a virtual machine, as stored in heads. Settings may come from a publisher that the user trusts
/// with the guest but not with this host. So no setting names a host path, a forwarded port, a passed-through device or
/// further QEMU arguments. docs/formats/vm-settings.md.
namespace isr {

/// All modes have the same network card, so that saved memory loads with any of them.
enum class NetworkMode {
  kNone,        ///< the cable is unplugged
  kRestricted,  ///< DHCP, but nothing outside can be reached
  kUser,        ///< outgoing connections as this user, also to this host's own loopback services
};
std::string_view to_name(NetworkMode mode) noexcept;
/// nullopt unless the name is none, restricted or user.
std::optional<NetworkMode> find_network_mode(std::string_view name) noexcept;

inline constexpr std::uint64_t kMiB = 1U << 20U;
inline constexpr std::uint64_t kMinMemory = 16 * kMiB;
inline constexpr std::uint64_t kMaxMemory = 512 * 1024 * kMiB;  ///< fits every CPU model's address space
inline constexpr unsigned kMaxCpus = 64;
inline constexpr std::size_t kMaxDisks = 8;

struct VmSettings {
  std::uint64_t memory_bytes = 512 * kMiB;  ///< kMinMemory..kMaxMemory, whole MiB
  unsigned cpus = 1;                        ///< 1..kMaxCpus
  std::string machine = "pc-q35-7.2";       ///< pc-q35-X.Y or pc-i440fx-X.Y: never an unversioned alias
  std::string cpu_model = "Westmere-v1";    ///< one of cpu_models(): never "host" or "max"
  NetworkMode network = NetworkMode::kRestricted;

  friend bool operator==(const VmSettings&, const VmSettings&) = default;
};

/// Error{kUsage} naming the field that is out of bounds. For settings that a user entered.
void check_vm_settings(const VmSettings& settings);
/// True for a CPU model that a parcel may name: versioned, and the same on every host.
bool is_known_cpu_model(std::string_view name) noexcept;

nlohmann::json vm_settings_to_json(const VmSettings& settings);
/// Error{kCorrupt} for a missing or unknown field, another kind, or a value out of bounds.
VmSettings vm_settings_from_json(const nlohmann::json& json);
/// As above, from text of at most 4 KiB.
VmSettings parse_vm_settings(std::string_view text);

/// Describes the QEMU that made the devices of a saved memory image. It is kept with the image and compared before a
/// resume downloads anything.
struct VmStamp {
  /// The version of the devices and addresses that qemu_arguments() makes. Raise it when a change makes older device
  /// state unloadable. 2: a port for the guest's agent.
  static constexpr unsigned kDeviceLayout = 2;

  unsigned device_layout = kDeviceLayout;
  std::string qemu_version;  ///< "7.2.22"
  std::string machine;       ///< empty in `here` when this QEMU does not have it
  std::string cpu_model;
  std::string accelerator;  ///< "kvm" or "tcg"
  std::string cpu_vendor;   ///< for kvm the host's CPU vendor ("GenuineIntel"), else empty

  friend bool operator==(const VmStamp&, const VmStamp&) = default;
};

nlohmann::json vm_stamp_to_json(const VmStamp& stamp);
VmStamp vm_stamp_from_json(const nlohmann::json& json);  ///< Error{kCorrupt}
VmStamp parse_vm_stamp(std::string_view text);           ///< the same from text of at most 4 KiB

/// The reason why memory saved under `saved` cannot be loaded under `here`, worded to end the sentence "memory cannot
/// be loaded here: …"; nullopt when it can be.
std::optional<std::string> why_incompatible(const VmStamp& saved, const VmStamp& here);

}  // namespace isr
