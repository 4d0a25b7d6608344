#pragma once

#include <stop_token>
#include <string>

#include "base/bytes.h"

namespace isr {

/// The 64 KiB firmware that tests whether an accelerator works (kvm_probe/kvm_probe.S).
Bytes kvm_probe_firmware();

struct ProbeResult {
  bool works = false;
  std::string reason;
};
/// Runs the firmware under an accelerator with the default machine and CPU model, for some seconds at most. Error{kVm}
/// when QEMU is absent; {kCancelled}.
ProbeResult run_probe_guest(const std::string& accelerator, const std::string& qemu_program, std::stop_token stop);

}  // namespace isr
