#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "vm/settings.h"

namespace isr {

struct VmDisk {
  std::filesystem::path file;  ///< raw; absolute
  std::string serial;          ///< shown to the guest: 1..20 of [a-z0-9._-]
  bool read_only = false;
};

/// The parts of this host that a VM may see. The caller decides them; stored settings never do.
struct VmFiles {
  std::string name;              ///< shown by ps: 1..64 of [a-z0-9._-]
  std::filesystem::path memory;  ///< absolute; exactly settings.memory_bytes long; no other process has it mapped
  std::vector<VmDisk> disks;     ///< the guest's vda, vdb, …; booted in this order; at most kMaxDisks
  std::optional<std::filesystem::path> cdrom;  ///< an ISO image, read-only; booted when no disk boots
  bool isolate_network = false;                ///< NetworkMode::kUser becomes kRestricted
};

enum class VmBegin {
  kPaused,    ///< the devices are fresh; cont boots
  kIncoming,  ///< the devices wait for their saved state
};

/// The descriptors that QEMU inherits, and the name of a socket in its working directory.
inline constexpr int kQmpFd = 3;
inline constexpr int kSerialFd = 4;
inline constexpr int kAgentFd = 5;
inline constexpr const char* kVncSocketName = "vnc.sock";
/// Names of devices in QMP.
inline constexpr const char* kAgentName = "agent";
inline constexpr const char* kNetworkCardName = "nic0";

/// QEMU's arguments without the program's name. The same settings and number of disks give the same devices at the same
/// addresses, so that device state fits (VmStamp::kDeviceLayout). Error{kUsage} when settings or files are out of
/// bounds. Opens no file. With NetworkMode::kNone the caller must unplug the network card before the guest runs.
std::vector<std::string> qemu_arguments(const VmSettings& settings, const VmFiles& files,
                                        const std::string& accelerator, VmBegin begin);

}  // namespace isr
