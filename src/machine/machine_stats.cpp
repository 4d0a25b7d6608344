#include "base/log.h"
#include "machine/machine.h"

namespace isr {
namespace {

constexpr std::chrono::seconds kPatience{2};  // of an answer that is wanted within 5 s

std::string state_of(Vm& vm) {
  try {
    return vm.status({kPatience, {}}).state;
  } catch (const Error& error) {
    log::warn("{}", error.what());
    return "not answering";
  }
}

}  // namespace

VmStats Machine::stats() const {
  return {.pid = vm_->pid(),
          .state = state_of(*vm_),
          .io_error = vm_->held_by_io_error(),
          .guest_panicked = vm_->guest_panicked(),
          .accelerator = accelerator_,
          .memory = std::string(to_name(vm_->memory().mapping())),
          .awakening = awakening(),
          .vnc_socket = vm_->vnc_socket()};
}

}  // namespace isr
