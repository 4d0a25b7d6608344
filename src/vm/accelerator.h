#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <string_view>

#include "vm/settings.h"

namespace isr {

struct Accelerator {
  std::string name;    ///< "kvm" or "tcg"
  std::string reason;  ///< for the user: "KVM runs guests here", "/dev/kvm: permission denied"
};
enum class AcceleratorChoice { kAuto, kKvm, kTcg };
/// Parses "auto", "kvm", "tcg"; Error{kUsage} for anything else.
AcceleratorChoice parse_accelerator_choice(std::string_view text);

/// Chooses KVM only where it was seen to run a guest. A device that opens proves nothing: nested hosts that emulate
/// most of KVM hang ordinary kernels. The first call runs a probe guest for some seconds. Its result is kept in
/// cache_directory for each boot, kernel and QEMU version. Error{kVm} for kKvm where it does not work; {kCancelled}.
Accelerator choose_accelerator(AcceleratorChoice choice, const std::filesystem::path& cache_directory,
                               const std::string& qemu_program = "qemu-system-x86_64", std::stop_token stop = {});

/// "GenuineIntel", "AuthenticAMD", …
std::string host_cpu_vendor();

/// The stamp of a memory image that would be saved here now. Asks the QEMU program for its version and machines, but
/// starts no guest. Error{kVm} when the program is absent or does not run.
VmStamp stamp_here(const VmSettings& settings, const Accelerator& accelerator,
                   const std::string& qemu_program = "qemu-system-x86_64");

}  // namespace isr
