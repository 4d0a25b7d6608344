// Each member is made on first use. Flags and environment are merged into the configuration first.
#include "cli/context.h"

#include <fmt/format.h>

#include "account/open_account.h"
#include "base/log.h"
#include "base/sleep.h"
#include "cli/password.h"
#include "session/held_lock.h"

namespace isr {
namespace {

constexpr std::chrono::milliseconds kWaitsPeriod{500};

/// Accepts "5M/s" as well as "5M".
std::string rate_of(std::string text) {
  if (text.ends_with("/s")) text.resize(text.size() - 2);
  return text;
}

}  // namespace

StoreOptions impatient() {
  StoreOptions options;
  options.connect_timeout = std::chrono::seconds(2);
  options.stall_timeout = std::chrono::seconds(2);
  options.open_patience = std::chrono::milliseconds(500);
  options.attempts = 2;
  return options;
}

CommandContext::CommandContext(GlobalFlags global_flags, std::function<std::stop_token()> stop)
    : flags(std::move(global_flags)), out(flags), stop_(std::move(stop)) {}

void CommandContext::check_stop() const {
  if (stop().stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; run the command again to continue");
}

const Paths& CommandContext::paths() {
  if (!paths_) {
    paths_ = paths_from_environment();
    if (!flags.config_file.empty()) paths_->config_file = fs::absolute(flags.config_file);
  }
  return *paths_;
}

Config& CommandContext::config() {
  if (config_) return *config_;
  config_ = Config::load(paths());
  if (!flags.repo.empty()) config_->override_with_flag("default_repo", flags.repo);
  if (flags.offline) config_->override_with_flag("offline", "true");
  if (!flags.bwlimit.empty()) config_->override_with_flag("upload.limit", rate_of(flags.bwlimit));
  if (!flags.password_file.empty()) config_->override_with_flag("password.file", flags.password_file);
  if (!flags.password_command.empty()) config_->override_with_flag("password.command", flags.password_command);
  if (const std::string cache = config_->get("cache.dir"); !cache.empty()) paths_->cache = cache;
  return *config_;
}

bool CommandContext::offline() { return config().get_bool("offline"); }

RepositoryEntry CommandContext::repository(const std::string& name) {
  const std::string wanted = name.empty() ? config().default_repository() : name;
  if (auto entry = config().repository(wanted)) return *entry;
  std::vector<std::string> names;
  for (const auto& entry : config().repositories()) names.push_back(entry.name);
  if (names.empty()) {
    throw Error(
        ErrorKind::kNotFound, "no repository is configured",
        {"isr repo init URL             makes a new one", "isr repo add NAME URL --user U   uses one that exists"});
  }
  throw Error(ErrorKind::kNotFound, fmt::format("there is no repository called \"{}\"", escaped(wanted)),
              {fmt::format("the configured repositories are: {}", fmt::join(names, ", "))});
}

Account CommandContext::open_account(const std::string& repository_name) {
  return open_account(repository_name, {}, false);
}

Account CommandContext::open_account(const std::string& repository_name, StoreOptions store, bool local) {
  const RepositoryEntry entry = repository(repository_name);
  OpenOptions options;
  options.offline = local || offline();
  options.use_keyring = !password_is_given(*this);
  options.store = store;
  options.store.waits = waits_;
  options.config = config();
  tell_of_waits(entry.name);
  Account account = isr::open_account(
      paths(), entry, password_source(*this, fmt::format("Password of {} at {}: ", entry.user, entry.name)), options);
  give_back_left_locks(account);
  return account;
}

/// From the first request on, reports when the repository does not answer. A command asks one repository at most.
void CommandContext::tell_of_waits(const std::string& repository) {
  if (waits_teller_.joinable()) return;
  try {
    waits_teller_ = std::jthread([waits = waits_, repository](const std::stop_token& stop) {
      WaitReport report;
      while (!stop.stop_requested()) {
        if (const auto words = report.due(*waits, repository)) log::warn("{}; still waiting", *words);
        sleep_unless_stopped(kWaitsPeriod, stop);
      }
    });
  } catch (const std::system_error& error) {
    log::debug("waits for the repository cannot be reported: {}", error.what());
  }
}

OpenParcel CommandContext::open_parcel(const std::string& name) {
  const ParcelName parsed = parse_parcel_name(name);
  Account account = open_account(parsed.repository);
  ParcelEntry entry = find_parcel(read_profile(account), parsed.parcel);
  return {std::move(account), std::move(entry), parsed.version};
}

OpenParcel CommandContext::open_local_parcel(const std::string& name) {
  const ParcelName parsed = parse_parcel_name(name);
  if (parsed.version.given) {
    throw Error(ErrorKind::kUsage, fmt::format("\"{}\": a version is not allowed here", escaped(name)));
  }
  const auto open = [&](bool local) {
    Account account = open_account(parsed.repository, impatient(), local);
    ParcelEntry entry = find_parcel(read_profile(account), parsed.parcel);
    return OpenParcel{std::move(account), std::move(entry), parsed.version};
  };
  try {
    return open(true);
  } catch (const Error& error) {
    const bool unknown_here = error.kind() == ErrorKind::kOffline || error.kind() == ErrorKind::kNotFound;
    if (!unknown_here || offline()) throw;
  }
  return open(false);
}

OpenParcel CommandContext::open_parcel_without_version(const std::string& name) {
  if (parse_parcel_name(name).version.given) {
    throw Error(ErrorKind::kUsage, fmt::format("\"{}\": a version is not allowed here", escaped(name)));
  }
  return open_parcel(name);
}

}  // namespace isr
