// doctor: one function for each check. Each catches its own failures, so that one does not hide the others.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/find_program.h"
#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "host/keyring.h"
#include "vm/accelerator.h"
#include "vm/swap.h"

namespace isr {
namespace {

constexpr std::uint64_t kLittleSpace = 2ULL << 30U;
constexpr std::uint64_t kNoSpace = 64ULL << 20U;
constexpr long kClockTolerance = 30;

enum class Verdict { kOk, kWarn, kFail };

struct Finding {
  Verdict verdict = Verdict::kOk;
  std::string what;
  std::string fix;
};

std::string_view to_name(Verdict verdict) {
  return verdict == Verdict::kOk ? "ok" : verdict == Verdict::kWarn ? "warn" : "FAIL";
}

Finding check_program(const std::string& name, const std::string& package, Verdict when_absent) {
  if (const auto path = find_program(name)) return {Verdict::kOk, fmt::format("{} at {}", name, path->string()), ""};
  return {when_absent, fmt::format("{} is not installed", name), fmt::format("sudo apt install {}", package)};
}

Finding check_fuse() {
  const UniqueFd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (device) return {Verdict::kOk, "/dev/fuse usable", ""};
  const std::string why = std::generic_category().message(errno);
  return {Verdict::kFail, fmt::format("/dev/fuse: {}", why),
          errno == ENOENT ? "sudo modprobe fuse" : "the device must be readable and writable for you"};
}

/// Opening /dev/kvm does not show that KVM works, so the probe runs a guest.
Finding check_accelerator(CommandContext& context) {
  const Accelerator best =
      choose_accelerator(AcceleratorChoice::kAuto, context.paths().cache, "qemu-system-x86_64", context.stop());
  if (best.name == "kvm") return {Verdict::kOk, fmt::format("KVM usable: {}", best.reason), ""};
  return {Verdict::kWarn, fmt::format("VMs are emulated, which is slow: {}", best.reason),
          "join the group kvm, or switch virtualisation on in the firmware; it may not be possible inside a VM"};
}

Finding check_swap(CommandContext& context) {
  const auto swap = plaintext_swap();
  if (swap.empty()) return {Verdict::kOk, "no swap that can be read without a key", ""};
  const std::string text = fmt::format("swap on {} is not encrypted", fmt::join(swap, ", "));
  if (context.config().get("vm.memory") == "private") {
    return {Verdict::kWarn, text + ": memory of a running machine may be left there", "encrypt it, or use zram"};
  }
  return {Verdict::kWarn, text + ": machines run with shared memory, which is slower", "encrypt it, or use zram"};
}

Finding check_space(const fs::path& directory, std::string_view name) {
  fs::path existing = directory;
  while (!fs::exists(existing) && existing.has_relative_path()) existing = existing.parent_path();
  struct statvfs info {};
  if (::statvfs(existing.c_str(), &info) != 0) {
    return {Verdict::kFail, fmt::format("{} {}: {}", name, existing.string(), std::generic_category().message(errno)),
            ""};
  }
  if (::access(existing.c_str(), W_OK) != 0) {
    return {Verdict::kFail, fmt::format("{} {} cannot be written", name, existing.string()),
            "make it yours, or set another directory"};
  }
  const std::uint64_t free = std::uint64_t{info.f_bavail} * info.f_frsize;
  const std::string text = fmt::format("{} {} has {} free", name, directory.string(), format_size(free));
  if (free < kNoSpace) return {Verdict::kFail, text, "free some space: there is no room for a guest's writes"};
  if (free < kLittleSpace) return {Verdict::kWarn, text, "free some space"};
  return {Verdict::kOk, text, ""};
}

Finding check_runtime(CommandContext& context) {
  return {Verdict::kOk, fmt::format("runtime directory {}", runtime_directory(context.paths()).string()), ""};
}

Finding check_configuration(CommandContext& context) {
  const std::size_t count = context.config().repositories().size();
  if (count == 0) {
    return {Verdict::kWarn, "no repository is configured", "isr repo init URL, or isr repo add NAME URL --user U"};
  }
  return {Verdict::kOk, fmt::format("configuration: {} repositor{}", count, count == 1 ? "y" : "ies"), ""};
}

Finding check_keyring() {
  const std::string label = fmt::format("isr-doctor:{}", ::getpid());
  keyring_store(label, as_bytes("probe"), std::chrono::seconds(10));
  const bool found = keyring_find(label).has_value();
  keyring_forget(label);
  if (found) return {Verdict::kOk, "the kernel's keyring works", ""};
  return {Verdict::kWarn, "the kernel's keyring loses keys: isr login has no effect",
          "use --password-file or --password-command"};
}

/// Compares this host's clock with the store's: the age of a new blob is 0 when they agree. Not possible when the store
/// reports no times.
Finding check_clock(const RepositoryEntry& entry, BlobStore& store) {
  const auto blob = store.get("isr-repository");
  if (!entry.url.starts_with('/') || !blob)
    return {Verdict::kOk, fmt::format("{}: no clock to compare", entry.name), ""};
  struct stat info {};
  const fs::path probe = fs::path(entry.url) / "isr-repository";
  if (::stat(probe.c_str(), &info) == 0 &&
      info.st_mtim.tv_sec > wall_now().time_since_epoch().count() + kClockTolerance) {
    return {Verdict::kWarn, fmt::format("the clock is behind: {} was made in the future", entry.name),
            "sudo timedatectl set-ntp true"};
  }
  return {Verdict::kOk, fmt::format("clock agrees with {}", entry.name), ""};
}

Finding check_repository(const RepositoryEntry& entry, BlobStore& store) {
  const auto began = std::chrono::steady_clock::now();
  const RepositoryInfo info = read_repository_info(store);
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began);
  const std::string text = fmt::format("{}: {} answers in {} ms", entry.name, store.describe(), took.count());
  if (!store.writable()) return {Verdict::kWarn, text + ", read-only", "to write, use a directory or isr serve"};
  return {Verdict::kOk, fmt::format("{}, writable, id {}", text, info.id.substr(0, 12)), ""};
}

/// Adds the result of a check. An exception becomes a finding, too.
void add(std::vector<Finding>& findings, const std::function<Finding()>& check) {
  try {
    findings.push_back(check());
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    findings.push_back({Verdict::kFail, error.what(), error.hints().empty() ? "" : error.hints().front()});
  }
}

void check_repositories(CommandContext& context, std::vector<Finding>& findings) {
  StoreOptions patience;
  patience.connect_timeout = std::chrono::seconds(5);
  patience.stall_timeout = std::chrono::seconds(5);
  for (const RepositoryEntry& entry : context.config().repositories()) {
    BlobStorePtr store;
    add(findings, [&] {
      store = open_store(entry.url, patience);
      return check_repository(entry, *store);
    });
    if (store) add(findings, [&] { return check_clock(entry, *store); });
  }
}

std::vector<Finding> check_all(CommandContext& context) {
  std::vector<Finding> findings;
  add(findings, check_fuse);
  add(findings, [] { return check_program("fusermount3", "fuse3", Verdict::kFail); });
  add(findings, [] { return check_program("qemu-system-x86_64", "qemu-system-x86", Verdict::kFail); });
  add(findings, [] { return check_program("qemu-img", "qemu-utils", Verdict::kWarn); });
  if (find_program("qemu-system-x86_64")) add(findings, [&] { return check_accelerator(context); });
  add(findings, [&] { return check_swap(context); });
  add(findings, [&] { return check_space(context.paths().state, "state directory"); });
  add(findings, [&] { return check_space(context.paths().cache, "cache"); });
  add(findings, [&] { return check_runtime(context); });
  add(findings, check_keyring);
  const std::size_t before = findings.size();
  add(findings, [&] { return check_configuration(context); });
  if (findings[before].verdict == Verdict::kOk && !context.offline()) check_repositories(context, findings);
  return findings;
}

int run_doctor(CommandContext& context) {
  const auto findings = check_all(context);
  std::size_t problems = 0;
  std::size_t warnings = 0;
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    if (finding.verdict == Verdict::kFail) ++problems;
    if (finding.verdict == Verdict::kWarn) ++warnings;
    list.push_back({{"verdict", to_name(finding.verdict)}, {"what", finding.what}, {"fix", finding.fix}});
  }
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"problems", problems}, {"warnings", warnings}, {"checks", list}});
    return problems == 0 ? 0 : 3;
  }
  using Style = Output::Style;
  for (const Finding& finding : findings) {
    const Style style = finding.verdict == Verdict::kOk     ? Style::kGood
                        : finding.verdict == Verdict::kWarn ? Style::kWarn
                                                            : Style::kBad;
    const std::string word = context.out.styled(fmt::format("{:<5}", to_name(finding.verdict)), style);
    context.out.line(fmt::format("{} {}", word, printable(finding.what)));
    if (!finding.fix.empty()) context.out.line(fmt::format("      fix: {}", printable(finding.fix)));
  }
  context.out.line(fmt::format("{} problem{}, {} warning{}", problems, problems == 1 ? "" : "s", warnings,
                               warnings == 1 ? "" : "s"));
  return problems == 0 ? 0 : 3;
}

}  // namespace

void register_doctor(App& app) {
  app.command(Group::kAdministration, "doctor", "check this machine; every failure prints its fix")
      .note("The first run starts a small guest for some seconds, to see whether KVM works here.")
      .example("isr doctor", "what works, what does not, and what to do")
      .example("isr doctor --json", "for scripts")
      .exit_codes({0, 3})
      .run([](CommandContext& context) { return run_doctor(context); });
}

}  // namespace isr
