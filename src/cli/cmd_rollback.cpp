// rollback: makes an old version, or a fork, the newest one.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/take_lock.h"
#include "session/session_state.h"
#include "transfer/new_version.h"

namespace isr {
namespace {

using nlohmann::json;

struct RollbackOptions {
  std::string name;
  bool take_lock = false;
};

int run_rollback(CommandContext& context, const RollbackOptions& options) {
  const std::string& name = options.name;
  OpenParcel parcel = context.open_parcel(name);
  if (!parcel.version.given) {
    throw Error(ErrorKind::kUsage, "which version?",
                {fmt::format("isr rollback {}@V    isr log {} lists them", name, name)});
  }
  if (local_state(parcel.account.host, parcel.entry)) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here", parcel.entry.name),
                {fmt::format("isr checkin {}    first", parcel.entry.name)});
  }
  parcel.account.remote.online("rolling back");
  const LoadedVersion old = load_version(parcel.account, parcel.entry, parcel.version.choice);
  const std::string what = fmt::format("{} {}", old.fork.empty() ? "version" : "fork", old.label());
  confirm(context.flags, fmt::format("{} goes back to {}, as a new version. Go on?", parcel.entry.name, what));
  std::uint64_t made = 0;
  take_over_if_agreed(context, parcel, options.take_lock, [&](const auto& steal_reason) {
    made = roll_back(parcel.account, parcel.entry, old.choice(), steal_reason, context.stop());
  });
  json done{{"parcel", parcel.entry.name}, {"version", made}, {"copy_of", old.head.head.n}};
  if (!old.fork.empty()) done["fork"] = old.fork;
  context.out.done(fmt::format("{}: version {} is a copy of {}", parcel.entry.name, made, what), done);
  return 0;
}

}  // namespace

void register_rollback(App& app) {
  auto rollback = std::make_shared<RollbackOptions>();
  app.command(Group::kGoingBack, "rollback", "make the whole parcel as it was at a version")
      .argument("NAME@V", rollback->name, "the parcel, and the version or fork")
      .flag("--take-lock", rollback->take_lock,
            "take the lock even from another host; its unsynced work becomes a fork")
      .example("isr rollback work@3", "version 3 again, as a new version")
      .example("isr rollback work@latest~1", "one version back")
      .example("isr rollback work@desk-42-3f2a/41", "a fork becomes the newest version")
      .exit_codes({0, 2, 10, 11, 13, 14, 15, 16})
      .run([rollback](CommandContext& context) { return run_rollback(context, *rollback); });
}

}  // namespace isr
