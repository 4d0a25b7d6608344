#pragma once

#include "cli/app.h"
#include "vm/settings.h"

/// What people say of a VM on the command line.
namespace isr {

/// The names that --network knows.
const std::vector<std::string>& network_modes();

/// The VM of a new parcel; what is not said is as VmSettings has it.
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
