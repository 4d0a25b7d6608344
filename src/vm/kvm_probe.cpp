#include "vm/kvm_probe.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cerrno>

#include "base/child_process.h"
#include "base/error.h"
#include "base/file.h"
#include "vm/settings.h"

// The assembler reads the file itself. The code after it in this file is 64-bit again.
asm(".include \"vm/kvm_probe/kvm_probe.S\"\n.code64\n.text");
extern "C" {
extern const unsigned char isr_kvm_probe_begin[];
extern const unsigned char isr_kvm_probe_end[];
}

namespace isr {
namespace {

constexpr std::size_t kFirmwareSize = 65536;
constexpr int kGoodExit = 85;
constexpr int kLastStep = 10;
// A working host needs well under a second; the rest is for a loaded host.
constexpr std::chrono::seconds kProbeTimeout{10};

ProbeResult judge(int status, const std::string& words) {
  if (!WIFEXITED(status)) return {false, fmt::format("the probe guest's QEMU was {}", describe_status(status))};
  const int code = WEXITSTATUS(status);
  if (code == kGoodExit) return {true, "a probe guest ran"};
  if (code == 0) return {false, "the probe guest crashed"};
  const int step = (code - 1) / 2;
  if (code % 2 == 1 && step >= 1 && step <= kLastStep)
    return {false, fmt::format("the probe guest failed at step {}", static_cast<char>('A' + step - 1))};
  return {false, fmt::format("QEMU refused the probe guest: {}", words.empty() ? describe_status(status) : words)};
}

}  // namespace

Bytes kvm_probe_firmware() {
  const ByteView code(isr_kvm_probe_begin, static_cast<std::size_t>(isr_kvm_probe_end - isr_kvm_probe_begin));
  Bytes out(kFirmwareSize - code.size());
  out.insert(out.end(), code.begin(), code.end());
  return out;
}

ProbeResult run_probe_guest(const std::string& accelerator, const std::string& qemu_program, std::stop_token stop) {
  const VmSettings defaults;
  UniqueFd firmware(::memfd_create("isr-kvm-probe", MFD_CLOEXEC));
  if (!firmware) throw_errno("the probe guest", errno);
  write_all_at(firmware.get(), kvm_probe_firmware(), 0, "the probe guest");

  ChildOptions options;
  options.program = qemu_program;
  options.directory = "/";
  options.arguments = {"-no-user-config",
                       "-nodefaults",
                       "-display",
                       "none",
                       "-no-reboot",
                       "-accel",
                       accelerator,
                       "-machine",
                       defaults.machine,
                       "-cpu",
                       defaults.cpu_model + ",enforce",
                       "-m",
                       "16",
                       "-bios",
                       "/proc/self/fd/3",
                       "-device",
                       "isa-debug-exit,iobase=0xf4,iosize=1"};
  options.descriptors.push_back(std::move(firmware));
  ChildProcess child;
  child.start(std::move(options));
  const auto status = child.wait_exit({kProbeTimeout, std::move(stop)});
  if (!status) return {false, fmt::format("a probe guest did not finish within {} s", kProbeTimeout.count())};
  return judge(*status, child.last_words());
}

}  // namespace isr
