// lock break: frees a parcel whose host is lost.
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

}  // namespace

void register_lock_break(Command& lock) {
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

}  // namespace isr
