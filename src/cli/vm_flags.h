#pragma once

#include "cli/app.h"
#include "vm/settings.h"

/// The command line flags that describe a VM.
namespace isr {

/// The values of --network.
const std::vector<std::string>& network_modes();

/// The VM of a new parcel. Defaults are those of VmSettings.
struct VmFlags {
  std::optional<std::uint64_t> memory;
  std::optional<std::uint64_t> cpus;
  std::string cpu_model;
  std::string machine;
  std::string network;  ///< "": restricted
};
void add_vm_flags(Command& command, VmFlags& flags);
/// Error{kUsage} as check_vm_settings().
VmSettings settings_from(const VmFlags& flags);

}  // namespace isr
