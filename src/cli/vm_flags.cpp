#include "cli/vm_flags.h"

namespace isr {

const std::vector<std::string>& network_modes() {
  static const std::vector<std::string> modes{"none", "restricted", "user"};
  return modes;
}

void add_vm_flags(Command& command, VmFlags& flags) {
  command.size("--memory", flags.memory, "of the VM (512M)")
      .number("--cpus", flags.cpus, "N", "virtual processors (1)")
      .option("--cpu-model", flags.cpu_model, "MODEL", "a versioned QEMU model")
      .option("--machine", flags.machine, "TYPE", "a versioned QEMU machine type")
      .choice("--network", flags.network, network_modes(),
              "no network (none), nothing outside (restricted, the default), or connections as you (user)");
}

VmSettings settings_from(const VmFlags& flags) {
  VmSettings settings;
  if (const auto mode = find_network_mode(flags.network)) settings.network = *mode;
  if (flags.memory) settings.memory_bytes = *flags.memory;
  if (flags.cpus) settings.cpus = static_cast<unsigned>(std::min<std::uint64_t>(*flags.cpus, 1U << 20U));
  if (!flags.cpu_model.empty()) settings.cpu_model = flags.cpu_model;
  if (!flags.machine.empty()) settings.machine = flags.machine;
  check_vm_settings(settings);
  return settings;
}

}  // namespace isr
