#pragma once

#include "vm/qemu.h"

namespace isr {

/// Makes the run directory of a VM and returns the options of a QEMU in it. `memory` is the setting vm.memory, which
/// says how QEMU maps guest memory; with "auto" it depends on the swap of this host.
QemuOptions make_run_directory(const std::filesystem::path& directory, const std::string& memory);

}  // namespace isr
