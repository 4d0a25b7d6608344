#pragma once

#include <stop_token>
#include <string>

#include "base/bytes.h"

namespace isr {

/// The 64 KiB firmware whose run tells whether an accelerator is any good
/// (kvm_probe/kvm_probe.S).
Bytes kvm_probe_firmware();

struct ProbeResult {
  bool works = false;
  std::string reason;
};
/// Runs it under an accelerator with the default machine and CPU model, for at
/// most some seconds. Error{kVm} when QEMU is absent; {kCancelled}.
ProbeResult run_probe_guest(const std::string& accelerator, const std::string& qemu_program, std::stop_token stop);

}  // namespace isr
