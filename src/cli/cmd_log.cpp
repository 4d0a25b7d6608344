// log: lists the versions of a parcel, newest first, and checks that each is the one that its successor names. Then
// lists the forks. Whether a fork follows the history is checked only when it is opened.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

constexpr std::uint64_t kDefaultCount = 20;
constexpr std::size_t kMaxJunk = 20;  // listed names that are not forks

struct LogOptions {
  std::string name;
  std::optional<std::uint64_t> count;
};

/// Up to `count` versions, going back from the newest, or from the version or fork that was named.
std::vector<LoadedVersion> read_versions(CommandContext& context, const OpenParcel& parcel, std::uint64_t count) {
  std::vector<LoadedVersion> entries;
  LoadedVersion at = load_version(parcel.account, parcel.entry, parcel.version.choice);
  if (parcel.account.remote.offline()) return {std::move(at)};
  Chain chain = parcel.account.chain(parcel.entry.chain());
  for (;;) {
    context.check_stop();
    entries.push_back(std::exchange(at, {}));
    if (entries.size() == count) break;
    auto older = chain.before(entries.back().head);
    if (!older) break;
    at.version = open_version(parcel.entry, older->head);
    at.head = std::move(*older);
  }
  return entries;
}

/// nullopt when the list is too long.
std::optional<std::vector<std::string>> list_forks(CommandContext& context, Chain& chain) {
  try {
    return chain.forks();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    context.out.warn(fmt::format("forks are not shown: {}", printable(error.what())));
    return std::nullopt;
  }
}

/// Anybody who may create blobs can put junk among the forks. A warning names it, and it is skipped.
std::vector<LoadedVersion> read_forks(CommandContext& context, const OpenParcel& parcel) {
  std::vector<LoadedVersion> entries;
  if (parcel.account.remote.offline()) return entries;
  Chain chain = parcel.account.chain(parcel.entry.chain());
  std::size_t junk = 0;
  for (const auto& fork : list_forks(context, chain).value_or(std::vector<std::string>())) {
    context.check_stop();
    if (junk == kMaxJunk) {
      context.out.warn("there are more forks; only these are read");
      break;
    }
    try {
      if (auto head = chain.read_fork(fork)) {
        ParcelVersion version = open_version(parcel.entry, head->head);
        entries.push_back({std::move(*head), std::move(version), fork});
        continue;
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCorrupt && error.kind() != ErrorKind::kUsage) throw;
      context.out.warn(fmt::format("fork {} is not shown: {}", printable(fork), error.what()));
    }
    ++junk;  // or it was removed after it was listed
  }
  return entries;
}

nlohmann::json to_json(const LoadedVersion& entry) {
  const Head& head = entry.head.head;
  const ParcelVersion& version = entry.version;
  nlohmann::json out{{"version", head.n},
                     {"when", to_rfc3339(head.time)},
                     {"host", head.host},
                     {"added", version.added_bytes},
                     {"suspended", version.suspended()},
                     {"message", version.message}};
  if (!version.copy_of.empty()) out["copy_of"] = version.copy_of;
  if (!entry.fork.empty()) out["fork"] = entry.fork;
  return out;
}

void print(const Output& out, const std::vector<LoadedVersion>& entries, const char* label) {
  std::vector<std::vector<std::string>> rows{{label, "WHEN", "WHERE", "ADDED", "STATE", "MESSAGE"}};
  for (const LoadedVersion& entry : entries) {
    const Head& head = entry.head.head;
    const ParcelVersion& version = entry.version;
    const std::string copied = version.copy_of.empty() ? "" : fmt::format("({}) ", version.copy_of);
    rows.push_back({entry.label(), describe_when(head.time, wall_now()), head.host, format_size(version.added_bytes),
                    version.suspended() ? "suspended" : "off", printable(copied + version.message)});
  }
  out.table(rows, "");
}

int run_log(CommandContext& context, const LogOptions& options) {
  const std::uint64_t count = options.count.value_or(kDefaultCount);
  if (count == 0) throw Error(ErrorKind::kUsage, "-n: must be 1 or more");
  const OpenParcel parcel = context.open_parcel(options.name);
  const auto versions = read_versions(context, parcel, count);
  const auto forks = read_forks(context, parcel);
  if (context.out.json()) {
    nlohmann::json answer{{"schema", 1},
                          {"parcel", parcel.entry.name},
                          {"versions", nlohmann::json::array()},
                          {"forks", nlohmann::json::array()}};
    for (const auto& entry : versions) answer["versions"].push_back(to_json(entry));
    for (const auto& entry : forks) answer["forks"].push_back(to_json(entry));
    context.out.document(answer);
    return 0;
  }
  print(context.out, versions, "VERSION");
  const std::uint64_t oldest = versions.back().head.head.n;
  if (parcel.account.remote.offline()) {
    context.out.note("offline: only the newest version that this host has seen");
  } else if (oldest > 1 && !options.count) {
    context.out.note(fmt::format("older versions are not shown; isr log {} -n N shows more", parcel.entry.name));
  }
  if (!forks.empty()) {
    context.out.line("\nForks: work that lost a race for a version, kept");
    print(context.out, forks, "FORK");
    const std::string one = fmt::format("{}@{}", parcel.entry.name, forks.front().fork);
    context.out.note(fmt::format("a fork can be used like a version, for example isr mount {} DIR", one));
  }
  return 0;
}

}  // namespace

void register_log(App& app) {
  auto options = std::make_shared<LogOptions>();
  app.command(Group::kGoingBack, "log", "versions: when, where, size added, message")
      .argument("NAME[@V]", options->name, "the parcel; with a version or fork, that one and older ones")
      .number("-n", options->count, "N", "show this many at most (20)")
      .example("isr log work", "the newest versions of work")
      .example("isr log work@30 -n 5 --json", "versions 30 to 26, for scripts")
      .exit_codes({0, 10, 12, 13, 14, 15})
      .run([options](CommandContext& context) { return run_log(context, *options); });
}

}  // namespace isr
