#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <string_view>

#include "vm/settings.h"

namespace isr {

struct Accelerator {
  std::string name;    ///< "kvm" or "tcg"
  std::string reason;  ///< why, for a person: "KVM runs guests here", "/dev/kvm: permission denied"
};
enum class AcceleratorChoice { kAuto, kKvm, kTcg };
/// "auto", "kvm", "tcg"; Error{kUsage} for anything else.
AcceleratorChoice parse_accelerator_choice(std::string_view text);

/// KVM only where it has been seen to run a guest: a device that opens proves
/// nothing (nested hosts that emulate most of KVM hang ordinary kernels). The
/// first call runs a probe guest for some seconds; its result is kept in
/// cache_directory per boot, kernel and QEMU version.
/// Error{kVm} for kKvm where it does not work; {kCancelled}.
Accelerator choose_accelerator(AcceleratorChoice choice, const std::filesystem::path& cache_directory,
                               const std::string& qemu_program = "qemu-system-x86_64", std::stop_token stop = {});

/// "GenuineIntel", "AuthenticAMD", …
std::string host_cpu_vendor();

/// What a memory image saved here now would be stamped with; asks the QEMU
/// program for its version and machines, starts no guest. Error{kVm} when the
/// program is absent or does not run.
VmStamp stamp_here(const VmSettings& settings, const Accelerator& accelerator,
                   const std::string& qemu_program = "qemu-system-x86_64");

}  // namespace isr
