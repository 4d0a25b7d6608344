// lock ls, lock show: shows which host works on which parcel.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

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
  account.remote.online("looking at locks");
  return show_locks(context, account, read_profile(account).parcels);
}

int run_show(CommandContext& context, const std::string& name) {
  const OpenParcel parcel = context.open_parcel_without_version(name);
  return show_locks(context, parcel.account, {parcel.entry});
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
  register_lock_break(lock);
}

}  // namespace isr
