#include "cli/session_commands.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "base/sizes.h"
#include "base/sleep.h"
#include "daemon/control.h"
#include "daemon/handover.h"
#include "daemon/session_daemon.h"
#include "session/held_lock.h"
#include "session/session.h"
#include "session/session_state.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr int kSessionAttempts = 3;  // more would mean that another user of this home ends each session at once
constexpr std::chrono::seconds kBeginningOrEnding{3};
constexpr std::chrono::milliseconds kPoll{50};

std::string clock_time(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  const bool today = wall_now() - time < std::chrono::hours(20);
  char text[32];
  std::strftime(text, sizeof text, today ? "%H:%M" : "%Y-%m-%d %H:%M", &local);
  return text;
}

}  // namespace

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

VersionSelector wanted_version(const OpenParcel& parcel, const std::optional<std::string>& option) {
  return option ? parse_version_selector(*option) : parcel.version;
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

void take_over_if_agreed(CommandContext& context, const OpenParcel& parcel, bool take_lock,
                         const std::function<void(const std::optional<std::string>& steal_reason)>& body) {
  const std::string& name = parcel.entry.name;
  if (take_lock && parcel.account.offline()) {
    throw Error(ErrorKind::kOffline, fmt::format("--take-lock needs the repository of {}, which is out of reach", name),
                {"nothing was changed; the same command again when it can be reached"});
  }
  std::optional<std::string> reason;
  if (take_lock) reason = "--take-lock";
  phrase_locked(name, [&] {
    try {
      body(reason);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kLocked || reason || parcel.account.offline()) throw;
      const auto ruling = parcel.account.lock(parcel.entry, context.stop()).show();
      if (ruling) reason = agree_to_take_over(context, name, *ruling);
      if (!reason) throw;
      body(reason);
    }
  });
}

fs::path take_out(CommandContext& context, OpenParcel& parcel, LockMode mode, const VersionChoice& choice,
                  bool take_lock) {
  take_over_if_agreed(context, parcel, take_lock, [&](const std::optional<std::string>& steal_reason) {
    Session::create(parcel.account, parcel.entry, mode, choice, steal_reason, context.stop());
  });
  try {
    return start_session_daemon(parcel.account, parcel.entry, context.stop());
  } catch (const Error&) {
    Session::undo_create(parcel.account, parcel.entry, context.stop());
    throw;
  }
}

const std::vector<std::string>& network_modes() {
  static const std::vector<std::string> modes{"none", "restricted", "user"};
  return modes;
}

void add_take_lock_of_session(Command& command, bool& take_lock) {
  command
      .flag("--take-lock", take_lock,
            "take the lock first, also from another host; what that one has not published becomes a fork")
      .note(
          "A session whose state directory was moved, or is a copy, does not have the lock: the command says so, and "
          "goes on with --take-lock.");
}

std::optional<fs::path> open_session(const OpenParcel& parcel) {
  if (!local_state(parcel.account, parcel.entry)) return std::nullopt;
  return start_session_daemon(parcel.account, parcel.entry);
}

fs::path require_session(const OpenParcel& parcel) {
  const auto socket = open_session(parcel);
  if (socket) return *socket;
  throw Error(ErrorKind::kNotFound, fmt::format("{} is not checked out here", parcel.entry.name),
              {fmt::format("isr resume {0}    or    isr checkout {0}", parcel.entry.name)});
}

std::optional<LocalState> settled_local_state(const Account& account, const ParcelEntry& parcel,
                                              const std::stop_token& stop) {
  const auto deadline = std::chrono::steady_clock::now() + kBeginningOrEnding;
  for (;;) {
    auto local = local_state(account, parcel);
    if (!local || !local->daemon_alive || control_alive(control_socket(account, parcel))) return local;
    if (std::chrono::steady_clock::now() > deadline || stop.stop_requested()) return local;
    sleep_unless_stopped(kPoll, stop);
  }
}

fs::path daemon_of_session(const OpenParcel& parcel, const std::stop_token& stop) {
  settled_local_state(parcel.account, parcel.entry, stop);  // a daemon that has just refused the command is ending
  return start_session_daemon(parcel.account, parcel.entry, stop);
}

int with_session(const OpenParcel& parcel, const std::function<int()>& body) {
  for (int attempt = 1;; ++attempt) {
    const bool was_here = local_state(parcel.account, parcel.entry).has_value();
    try {
      return body();
    } catch (const Error& error) {
      // The daemon may have ended and kept its session.
      if (dynamic_cast<const NotBegun*>(&error) != nullptr && attempt < kSessionAttempts) {
        settled_local_state(parcel.account, parcel.entry, {});
        continue;
      }
      // kIo: the directory went while a daemon's log was opened in it.
      const bool session_is_missed =
          error.kind() == ErrorKind::kDaemon || error.kind() == ErrorKind::kNotFound || error.kind() == ErrorKind::kIo;
      if (!session_is_missed || !was_here || attempt == kSessionAttempts) throw;
      if (settled_local_state(parcel.account, parcel.entry, {})) throw;
    }
  }
}

void note_kept_settings(CommandContext& context, const std::vector<std::string>& keys) {
  if (keys.empty()) return;
  context.out.note(fmt::format("the session goes on with the {} that it began with; this command has another",
                               fmt::join(keys, ", ")));
}

OnProgress<ProgressLine> show_on(Progress& progress) {
  return [&progress](const ProgressLine& line) { progress.update(line.step, line.done, line.total); };
}

std::string printable_path(const fs::path& path) { return printable(path.string()); }

int report_nothing_here(CommandContext& context, const OpenParcel& parcel) {
  const std::string& name = parcel.entry.name;
  if (!parcel.account.offline() && give_back_orphaned_lock(parcel.account, parcel.entry)) {
    context.out.note(fmt::format("the lock of {}, which nothing here used any more, is given back", name));
  }
  context.out.note(fmt::format("{} is not checked out here: nothing to do", name));
  if (context.out.json()) context.out.done("", {{"parcel", name}, {"uploaded", false}, {"unchanged", true}});
  return 0;
}

namespace {

/// Work that lost the race: put it on top, leave it, or let both live.
[[noreturn]] void report_fork(const std::string& name, const std::string& fork, bool is_lock_lost, bool goes_on_here) {
  const std::string one = fmt::format("{}@{}", name, fork);
  const std::string what =
      fmt::format("another host {}; the work of this host is kept as the fork {}",
                  is_lock_lost ? fmt::format("has taken over {}", name) : fmt::format("published {} first", name), one);
  const std::string both = fmt::format("to have both             isr branch {} NEW", one);
  if (goes_on_here) {
    throw Error(
        ErrorKind::kForked, what,
        {fmt::format("{0} goes on here; isr suspend {0} keeps it as a fork, too, and then there is a choice", name),
         both});
  }
  const std::string taking = is_lock_lost ? " --take-lock" : "";
  throw Error(ErrorKind::kForked, what,
              {fmt::format("to put this one on top   isr rollback {}{}", one, taking),
               fmt::format("to take the other        isr resume {}", name), both});
}

/// What --json says of a publish.
json document_of(const std::string& name, const PublishAnswer& answer) {
  const PublishResult& result = answer.result;
  json document{
      {"schema", 1}, {"type", "summary"}, {"parcel", name}, {"version", result.version}, {"uploaded", answer.uploaded}};
  if (answer.uploaded) {
    document.update({{"unchanged", result.unchanged},
                     {"fork", result.fork},
                     {"lock_lost", result.is_lock_lost},
                     {"uploaded_bytes", result.uploaded_bytes},
                     {"uploaded_objects", result.uploaded_objects}});
  }
  if (answer.memory) document["memory"] = *answer.memory;
  if (answer.paused_ms) document["paused_ms"] = *answer.paused_ms;
  if (answer.lock_returned) {
    document["ended"] = true;
    document["lock_due"] = answer.lock_returned == LockReturn::kLater;
    document["lock_moved"] = answer.lock_returned == LockReturn::kMoved;
  }
  return document;
}

}  // namespace

int report_publish(CommandContext& context, const std::string& name, const std::string& done,
                   const PublishAnswer& answer) {
  const PublishResult& result = answer.result;
  if (!result.fork.empty()) report_fork(name, result.fork, result.is_lock_lost, !answer.lock_returned);
  if (answer.lock_returned == LockReturn::kLater) {
    context.out.note(fmt::format(
        "the lock of {} is given back when its repository can be reached again; until then other hosts find it in use",
        name));
  }
  if (answer.lock_returned == LockReturn::kMoved) {
    context.out.note(fmt::format(
        "the lock of {0} stays: it was taken at another place of this session. isr lock break {0} frees it, unless the "
        "original is in use",
        name));
  }
  if (context.out.json()) {
    context.out.document(document_of(name, answer));
    return 0;
  }
  const bool memory = answer.memory.value_or(true);
  if (!memory) context.out.note(fmt::format("nothing of {} was running: there was no memory to save", name));
  if (!answer.uploaded) {
    context.out.line(fmt::format("{} is {} on this host only; nothing was uploaded. isr suspend {} uploads it", name,
                                 memory ? "suspended" : "kept", name));
  } else if (result.unchanged) {
    context.out.line(fmt::format("{}: nothing changed since version {}", name, result.version));
  } else {
    std::string how = format_size(result.uploaded_bytes) + " uploaded";
    if (answer.paused_ms) how += fmt::format(", paused {:.0f} ms", *answer.paused_ms);
    context.out.line(fmt::format("{} {} as version {} ({})", name, memory ? done : "saved", result.version, how));
  }
  return 0;
}

}  // namespace isr
