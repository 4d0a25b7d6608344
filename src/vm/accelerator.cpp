#include "vm/accelerator.h"

#include <cpuid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/utsname.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/child_process.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/whole_file.h"
#include "vm/kvm_probe.h"

namespace isr {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{20};

/// Runs QEMU and returns its output. Error{kVm} when it fails.
std::string ask_program(const std::string& program, std::vector<std::string> arguments) {
  ChildProcess child;
  ChildOptions options;
  options.program = program;
  options.arguments = std::move(arguments);
  options.directory = "/";
  child.start(std::move(options));
  const auto status = child.wait_exit({kAnswerTimeout, {}});
  if (!status) throw Error(ErrorKind::kVm, fmt::format("{} does not answer", program));
  if (*status != 0) throw Error(ErrorKind::kVm, fmt::format("{} fails: {}", program, child.last_words()));
  return child.output();
}

/// "7.2.22" of "QEMU emulator version 7.2.22 (Debian …)".
std::string qemu_version(const std::string& program) {
  constexpr std::string_view kBefore = "version ";
  const std::string text = ask_program(program, {"--version"});
  const auto begin = text.find(kBefore);
  if (begin == std::string::npos) throw Error(ErrorKind::kVm, fmt::format("{} does not report its version", program));
  const auto rest = text.substr(begin + kBefore.size());
  return rest.substr(0, rest.find_first_not_of("0123456789."));
}

bool has_machine(const std::string& program, const std::string& machine) {
  const std::string text = ask_program(program, {"-machine", "help"});
  return text.starts_with(machine + " ") || text.find("\n" + machine + " ") != std::string::npos;
}

constexpr std::size_t kMaxCacheFile = 4096;
constexpr std::string_view kWorks = "works";

/// Names everything that the result depends on: this boot, this kernel, and QEMU.
std::string probe_key(const std::string& version) {
  utsname kernel{};
  ::uname(&kernel);
  const auto boot = read_file_if_exists("/proc/sys/kernel/random/boot_id", kMaxCacheFile);
  std::string id(boot ? as_text(*boot) : "?");
  while (id.ends_with('\n')) id.pop_back();
  return fmt::format("isr-kvm-probe 1 boot {} kernel {} qemu {}", id, kernel.release, version);
}

/// Three lines: key, "works" or "fails", reason.
std::optional<ProbeResult> cached_result(const fs::path& file, const std::string& key) {
  const auto bytes = read_file_if_exists(file, kMaxCacheFile);
  if (!bytes) return std::nullopt;
  const std::string text(as_text(*bytes));
  const auto first = text.find('\n');
  const auto second = text.find('\n', first + 1);
  if (first == std::string::npos || second == std::string::npos || text.substr(0, first) != key) return std::nullopt;
  const auto end = text.find('\n', second + 1);
  return ProbeResult{text.substr(first + 1, second - first - 1) == kWorks, text.substr(second + 1, end - second - 1)};
}

ProbeResult probe_kvm(const fs::path& cache_directory, const std::string& program, std::stop_token stop) {
  const UniqueFd device(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!device) return {false, fmt::format("/dev/kvm: {}", std::strerror(errno))};
  const fs::path file = cache_directory / "kvm-probe";
  const std::string key = probe_key(qemu_version(program));
  try {
    if (const auto known = cached_result(file, key)) return *known;
  } catch (const Error& error) {
    log::debug("not using {}: {}", file.string(), error.what());
  }
  const ProbeResult result = run_probe_guest("kvm", program, std::move(stop));
  try {
    make_private_directory(cache_directory);
    replace_file(file, as_bytes(fmt::format("{}\n{}\n{}\n", key, result.works ? kWorks : "fails", result.reason)));
  } catch (const Error& error) {
    log::warn("cannot keep the result of the KVM probe: {}", error.what());
  }
  return result;
}

}  // namespace

AcceleratorChoice parse_accelerator_choice(std::string_view text) {
  if (text == "auto") return AcceleratorChoice::kAuto;
  if (text == "kvm") return AcceleratorChoice::kKvm;
  if (text == "tcg") return AcceleratorChoice::kTcg;
  throw Error(ErrorKind::kUsage, fmt::format("accelerator \"{}\": expected auto, kvm or tcg", text));
}

Accelerator choose_accelerator(AcceleratorChoice choice, const fs::path& cache_directory,
                               const std::string& qemu_program, std::stop_token stop) {
  if (choice == AcceleratorChoice::kTcg) return {"tcg", "asked for"};
  const ProbeResult kvm = probe_kvm(cache_directory, qemu_program, std::move(stop));
  if (kvm.works) return {"kvm", fmt::format("KVM works here: {}", kvm.reason)};
  if (choice == AcceleratorChoice::kKvm)
    throw Error(ErrorKind::kVm, fmt::format("KVM does not work here: {}", kvm.reason));
  return {"tcg", fmt::format("slower, because KVM does not work here: {}", kvm.reason)};
}

std::string host_cpu_vendor() {
  unsigned eax = 0;
  std::array<unsigned, 3> text{};
  if (__get_cpuid(0, &eax, &text[0], &text[2], &text[1]) == 0) return {};
  std::string out(sizeof text, '\0');
  std::memcpy(out.data(), text.data(), out.size());
  return out;
}

VmStamp stamp_here(const VmSettings& settings, const Accelerator& accelerator, const std::string& qemu_program) {
  VmStamp out;
  out.qemu_version = qemu_version(qemu_program);
  if (has_machine(qemu_program, settings.machine)) out.machine = settings.machine;
  out.cpu_model = settings.cpu_model;
  out.accelerator = accelerator.name;
  if (accelerator.name == "kvm") out.cpu_vendor = host_cpu_vendor();
  return out;
}

}  // namespace isr
