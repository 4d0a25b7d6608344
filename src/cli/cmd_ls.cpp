// ls: shows local state first. It asks the repository about all parcels at once, with short time-outs, because people
// run ls to see whether the repository answers.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "session/held_lock.h"
#include "session/session_state.h"

namespace isr {
namespace {

constexpr unsigned kThreads = 8;

struct LsOptions {
  std::vector<std::string> names;
  bool local = false;
};

struct Row {
  ParcelEntry parcel;
  std::string state = "unknown";
  std::string where = "-";
  std::uint64_t version = 0;  ///< 0: unknown, or no version yet
  std::optional<WallTime> saved;
  bool upload_due = false;
  bool lock_due = false;  ///< this host still has the lock but no session that uses it
  std::string problem;
};

void ask_repository(const Account& account, bool here, Row& row) {
  const auto ruling = account.lock(row.parcel).show();
  const bool held = ruling && ruling->record.held && !ruling->expired;
  if (held && !ruling->ours) row.where = ruling->record.host;
  if (held && !ruling->ours && !here) row.state = "in use";
  const auto newest = account.chain(row.parcel.chain()).newest();
  if (!newest) {
    row.state = "empty";
    return;
  }
  row.version = newest->head.n;
  row.saved = newest->head.time;
  if (!here && row.state != "in use") {
    row.state = open_version(row.parcel, newest->head).suspended() ? "suspended" : "off";
  }
}

void ask_offline(const Account& account, bool here, Row& row) {
  const LoadedVersion kept = load_version(account, row.parcel);
  row.version = kept.head.head.n;
  row.saved = kept.head.head.time;
  if (!here) row.state = kept.version.suspended() ? "suspended" : "off";
}

void fill(const Account& account, Row& row) {
  const auto local = local_state(account.host, row.parcel);
  row.lock_due = !local && has_lock_to_give_back(account.host, row.parcel);
  if (row.lock_due) row.where = "lock here";
  if (local) {
    row.state = local->state;
    row.where = "here";
    row.version = local->base;
    row.upload_due = local->upload_due;
  }
  try {
    account.remote.offline() ? ask_offline(account, local.has_value(), row)
                             : ask_repository(account, local.has_value(), row);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kOffline || !account.remote.offline()) row.problem = error.what();
  }
}

std::vector<Row> fill_all(const Account& account, const std::vector<ParcelEntry>& parcels) {
  std::vector<Row> rows;
  for (const auto& parcel : parcels) rows.emplace_back().parcel = parcel;
  parallel_for(rows.size(), kThreads, [&](std::size_t i) {
    try {
      fill(account, rows[i]);
    } catch (const std::exception& error) {
      rows[i].problem = error.what();
    }
  });
  return rows;
}

nlohmann::json to_json(const Row& row) {
  nlohmann::json out{{"id", row.parcel.id},
                     {"name", row.parcel.name},
                     {"state", row.state},
                     {"version", row.version == 0 ? nlohmann::json() : nlohmann::json(row.version)},
                     {"upload_due", row.upload_due},
                     {"lock_due", row.lock_due},
                     {"where", row.where == "-" ? nlohmann::json() : nlohmann::json(row.where)},
                     {"saved", row.saved ? nlohmann::json(to_rfc3339(*row.saved)) : nlohmann::json()}};
  if (!row.problem.empty()) out["problem"] = row.problem;
  return out;
}

void print(CommandContext& context, const Account& account, const std::vector<Row>& rows) {
  context.out.line(fmt::format("{}  {}  {}", account.remote.entry.name, account.remote.entry.url,
                               account.remote.offline() ? "offline" : "online"));
  if (rows.empty()) {
    context.out.note("there are no parcels yet; isr import NAME FILE or isr create NAME makes one");
    return;
  }
  std::vector<std::vector<std::string>> table{{"NAME", "STATE", "WHERE", "VERSION", "SAVED"}};
  for (const Row& row : rows) {
    table.push_back({row.parcel.name, row.state, row.where, row.version == 0 ? "-" : std::to_string(row.version),
                     row.saved ? describe_when(*row.saved, wall_now()) : "-"});
  }
  context.out.table(table);
  for (const Row& row : rows) {
    if (row.lock_due)
      context.out.note(fmt::format("the lock of {} is given back when the repository can be reached", row.parcel.name));
    if (row.upload_due)
      context.out.note(fmt::format("{0} is not uploaded yet; isr suspend {0} uploads it", row.parcel.name));
  }
}

int run_ls(CommandContext& context, const LsOptions& options) {
  Account account = context.open_account({}, impatient(), options.local);
  const Profile profile = read_profile(account);
  std::vector<ParcelEntry> parcels;
  for (const auto& name : options.names) parcels.push_back(find_parcel(profile, parse_parcel_name(name).parcel));
  if (options.names.empty()) parcels = profile.parcels;
  const auto rows = fill_all(account, parcels);
  if (context.out.json()) {
    nlohmann::json list = nlohmann::json::array();
    for (const Row& row : rows) list.push_back(to_json(row));
    context.out.document({{"schema", 1},
                          {"repository", account.remote.entry.name},
                          {"offline", account.remote.offline()},
                          {"parcels", list}});
  } else {
    print(context, account, rows);
  }
  for (const Row& row : rows) {
    if (!row.problem.empty()) log::warn("{}: {}", row.parcel.name, printable(row.problem));
  }
  return 0;
}

}  // namespace

void register_ls(App& app) {
  auto options = std::make_shared<LsOptions>();
  app.command(Group::kEveryday, "ls", "parcels, where they are, how new")
      .arguments("NAME", options->names, "only these")
      .flag("--local", options->local, "show what this host knows; do not ask the repository")
      .example("isr ls", "all parcels of the default repository")
      .example("isr ls work --json", "one of them, for scripts")
      .exit_codes({0, 10, 12, 13, 14, 15})
      .run([options](CommandContext& context) { return run_ls(context, *options); });
}

}  // namespace isr
