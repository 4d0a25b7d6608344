// lock ls, show, break; accept-older: looking at, and past, what protects a parcel.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

struct BreakOptions {
  std::string name;
  std::string reason;
  std::string confirm;
};

struct AcceptOptions {
  std::string name;
  std::optional<std::uint64_t> profile;
  std::string reason;
};

std::string state_of(const LockRuling& ruling) {
  if (!ruling.record.held) return "free";
  if (ruling.ours) return "ours";
  return ruling.expired ? "expired" : "held";
}

nlohmann::json lock_to_json(const std::string& parcel, const std::optional<LockRuling>& ruling) {
  nlohmann::json out{{"parcel", parcel}, {"state", ruling ? state_of(*ruling) : "free"}};
  if (!ruling || !ruling->record.held) return out;
  const LockRecord& record = ruling->record;
  out["host"] = record.host;
  out["mode"] = record.mode == LockMode::kAttended ? "attended" : "checkout";
  out["since"] = to_rfc3339(record.since);
  out["base"] = record.base.n;
  if (ruling->age) out["seen_s"] = ruling->age->count();
  if (!record.note.empty()) out["note"] = record.note;
  return out;
}

std::vector<std::string> lock_row(const std::string& parcel, const std::optional<LockRuling>& ruling) {
  if (!ruling || !ruling->record.held) return {parcel, "free", "-", "-", "-", "-"};
  const LockRecord& record = ruling->record;
  return {parcel,
          state_of(*ruling),
          record.host,
          record.mode == LockMode::kAttended ? "attended" : "checkout",
          describe_when(record.since, wall_now()),
          ruling->age ? describe_age(*ruling->age) : "-"};
}

int show_locks(CommandContext& context, const Account& account, const std::vector<ParcelEntry>& parcels) {
  nlohmann::json list = nlohmann::json::array();
  std::vector<std::vector<std::string>> rows{{"NAME", "LOCK", "HOST", "MODE", "SINCE", "LAST SEEN"}};
  for (const ParcelEntry& parcel : parcels) {
    const auto ruling = account.lock(parcel).show();
    list.push_back(lock_to_json(parcel.name, ruling));
    rows.push_back(lock_row(parcel.name, ruling));
  }
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"locks", list}});
  } else {
    context.out.table(rows, "");
  }
  return 0;
}

int run_ls(CommandContext& context) {
  Account account = context.open_account();
  account.online("looking at locks");
  return show_locks(context, account, read_profile(account).parcels);
}

int run_show(CommandContext& context, const std::string& name) {
  const OpenParcel parcel = context.open_parcel_without_version(name);
  return show_locks(context, parcel.account, {parcel.entry});
}

int break_lock(CommandContext& context, ParcelLock& lock, const std::string& name, const std::string& reason) {
  lock.break_lock(reason);
  context.out.done(fmt::format("the lock of {} is broken; the parcel is free", name),
                   {{"parcel", name}, {"broken", true}});
  return 0;
}

int run_break(CommandContext& context, const BreakOptions& options) {
  const OpenParcel parcel = context.open_parcel_without_version(options.name);
  const std::string& name = parcel.entry.name;
  ParcelLock lock = parcel.account.lock(parcel.entry);
  const std::string reason = options.reason.empty() ? "isr lock break" : options.reason;
  std::optional<LockRuling> ruling;
  try {
    ruling = lock.show();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    confirm_name(context.flags, fmt::format("{}, so it is not known whether a host works on it.", error.what()), name,
                 options.confirm);
    return break_lock(context, lock, name, reason);
  }
  if (!ruling || !ruling->record.held) {
    context.out.done(fmt::format("{} is not locked: nothing to do", name), {{"parcel", name}, {"broken", false}});
    return 0;
  }
  const std::string who = ruling->ours ? "this host" : ruling->record.host;
  const std::string seen = ruling->age ? describe_age(*ruling->age) : "at an unknown time";
  const std::string question = fmt::format(
      "{} is locked by {} (last seen {}). Its unsynced changes stay there, and can then only become a fork.", name, who,
      seen);
  if (ruling->expired) {
    confirm(context.flags, question + " Break the lock?");
  } else {
    confirm_name(context.flags, question, name, options.confirm);
  }
  return break_lock(context, lock, name, reason);
}

/// The part of the answer that tells of junk behind the version; empty when there is none.
std::string describe_junk(const StoredHead& head) {
  if (head.junk.empty()) return "";
  const std::uint64_t first = head.head.n + 1;
  const std::uint64_t next = first + head.junk.size();
  const std::string numbers = head.junk.size() == 1 ? fmt::format("the number {} is", first)
                                                    : fmt::format("the numbers {} to {} are", first, next - 1);
  return fmt::format("; {} skipped, the next version will be {}", numbers, next);
}

/// The chain that is meant, and its version.
int run_accept(CommandContext& context, const AcceptOptions& options) {
  if (options.profile.has_value() != options.name.empty()) {
    throw Error(ErrorKind::kUsage, "say either NAME@VERSION or --profile N");
  }
  if (options.reason.empty()) throw Error(ErrorKind::kUsage, "--reason: say why, it is kept with what was seen");
  if (options.profile) {
    const Account account = context.open_account();
    const auto head = account.chain(fmt::format("users/{}/profile", account.keys.user))
                          .accept_older(*options.profile, options.reason);
    context.out.done(
        fmt::format("the list of parcels is what it was at {}", to_rfc3339(head.head.time)) + describe_junk(head),
        {{"profile", head.head.n}, {"when", to_rfc3339(head.head.time)}});
    return 0;
  }
  const ParcelName name = parse_parcel_name(options.name);
  if (!name.version.choice.number) throw Error(ErrorKind::kUsage, "say which version: NAME@VERSION, a number");
  const OpenParcel parcel = context.open_parcel(options.name);
  const auto head =
      parcel.account.chain(parcel.entry.chain()).accept_older(*name.version.choice.number, options.reason);
  context.out.done(fmt::format("{}: version {} of {} is the newest that this host trusts", parcel.entry.name,
                               head.head.n, to_rfc3339(head.head.time)) +
                       describe_junk(head),
                   {{"parcel", parcel.entry.name}, {"version", head.head.n}, {"when", to_rfc3339(head.head.time)}});
  return 0;
}

}  // namespace

void register_lock(App& app) {
  Command& lock = app.command(Group::kAdministration, "lock", "which host works on which parcel");
  lock.example("isr lock ls", "all parcels")
      .example("isr lock show work", "one of them")
      .exit_codes({0, 10, 12, 13, 14, 15});
  lock.subcommand("ls", "the locks of all parcels")
      .example("isr lock ls", "as a table")
      .example("isr lock ls --json", "for scripts")
      .exit_codes({0, 12, 13, 14, 15})
      .run([](CommandContext& context) { return run_ls(context); });
  auto name = std::make_shared<std::string>();
  lock.subcommand("show", "the lock of one parcel")
      .argument("NAME", *name, "the parcel")
      .example("isr lock show work", "who has it, since when")
      .example("isr lock show work --json", "for scripts")
      .exit_codes({0, 10, 12, 13, 14, 15})
      .run([name](CommandContext& context) { return run_show(context, *name); });
  auto options = std::make_shared<BreakOptions>();
  lock.subcommand("break", "free a parcel whose host is lost")
      .argument("NAME", options->name, "the parcel")
      .option("--reason", options->reason, "TEXT", "kept in the lock's history")
      .option("--confirm", options->confirm, "NAME", "instead of typing the name, when the host may be alive")
      .note(
          "What the other host has not synced stays there. When it comes back, its work becomes a fork:\n"
          "nothing is overwritten, on either side.")
      .example("isr lock break work", "asks first")
      .example("isr lock break work --confirm work --reason 'laptop stolen'", "for scripts")
      .exit_codes({0, 2, 10, 12, 13, 14, 15})
      .run([options](CommandContext& context) { return run_break(context, *options); });
}

void register_accept_older(App& app) {
  auto options = std::make_shared<AcceptOptions>();
  app.command(Group::kAdministration, "accept-older", "trust an older version than the newest that this host has seen")
      .optional_argument("NAME@V", options->name, "the parcel, and the version that is to be its newest")
      .number("--profile", options->profile, "N", "instead: version N of your list of parcels")
      .option("--reason", options->reason, "TEXT", "why; it is logged on this host")
      .note(
          "A repository that hands back an old version is refused (exit 15): it may hide your newer work. After\n"
          "it was restored from a backup on purpose, this is the way on.\n"
          "It is also the way on when something that is no version lies under the next number. That number is then\n"
          "skipped, and the next version names what was skipped, so that your other hosts pass it, too.")
      .example("isr accept-older work@39 --reason 'server restored from Monday backup'", "the parcel work")
      .example("isr accept-older --profile 4 --reason 'server restored'", "the list of parcels itself")
      .exit_codes({0, 2, 10, 12, 13, 14, 15})
      .run([options](CommandContext& context) { return run_accept(context, *options); });
}

}  // namespace isr
