#include "cli/take_lock.h"

#include <fmt/format.h>

namespace isr {
namespace {

std::string clock_time(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  const bool today = wall_now() - time < std::chrono::hours(20);
  char text[32];
  std::strftime(text, sizeof text, today ? "%H:%M" : "%Y-%m-%d %H:%M", &local);
  return text;
}

/// Runs body. A LockedError is reported with the parcel's name.
void phrase_locked(const std::string& name, const std::function<void()>& body) {
  try {
    body();
  } catch (const LockedError& locked) {
    const LockRuling& ruling = locked.ruling();
    const LockRecord& record = ruling.record;
    std::string seen;
    if (ruling.age) seen = ", last seen " + describe_age(*ruling.age);
    throw Error(
        ErrorKind::kLocked,
        fmt::format("{} is in use on {} (since {}{})", name, record.host, clock_time(record.since), seen),
        {fmt::format("on {} run    isr suspend {}", record.host, name),
         fmt::format("or look without running    isr mount {}@latest DIR", name),
         ruling.expired
             ? fmt::format(
                   "its lease has run out; to take {} over, pass    --take-lock    (its unsynced changes stay there)",
                   name)
             : fmt::format("if {} is lost    isr lock break {}    (its unsynced changes stay there)", record.host,
                           name)});
  }
}

std::optional<std::string> agree_to_take_over(CommandContext& context, const std::string& name,
                                              const LockRuling& ruling) {
  if (!ruling.expired) return std::nullopt;
  const std::string seen = ruling.age ? describe_age(*ruling.age) : "at an unknown time";
  const std::string question =
      fmt::format("{} runs {} since {}, and was last seen {}. What it has not published then becomes a fork.",
                  ruling.record.host, name, clock_time(ruling.record.since), seen);
  if (!may_ask(context.flags)) return std::nullopt;
  confirm(context.flags, question + " Take it over?");
  return "its lease had run out";
}

}  // namespace

void take_over_if_agreed(CommandContext& context, const OpenParcel& parcel, bool take_lock,
                         const std::function<void(const std::optional<std::string>& steal_reason)>& body) {
  const std::string& name = parcel.entry.name;
  if (take_lock && parcel.account.remote.offline()) {
    throw Error(ErrorKind::kOffline, fmt::format("--take-lock needs the repository of {}, which is out of reach", name),
                {"nothing was changed; the same command again when it can be reached"});
  }
  std::optional<std::string> reason;
  if (take_lock) reason = "--take-lock";
  phrase_locked(name, [&] {
    try {
      body(reason);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kLocked || reason || parcel.account.remote.offline()) throw;
      const auto ruling = parcel.account.lock(parcel.entry, context.stop()).show();
      if (ruling) reason = agree_to_take_over(context, name, *ruling);
      if (!reason) throw;
      body(reason);
    }
  });
}

void add_take_lock_of_session(Command& command, bool& take_lock) {
  command
      .flag("--take-lock", take_lock,
            "take the lock first, also from another host; what that one has not published becomes a fork")
      .note(
          "A session whose state directory was moved, or is a copy, does not have the lock: the command says so, and "
          "goes on with --take-lock.");
}

}  // namespace isr
