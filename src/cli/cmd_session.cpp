// checkout, checkin, sync, discard, rollback: the session without its VM.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "base/sizes.h"
#include "cli/commands.h"
#include "cli/session_commands.h"
#include "daemon/protocol.h"
#include "daemon/session_daemon.h"
#include "session/held_lock.h"
#include "session/session.h"
#include "session/session_state.h"
#include "transfer/import.h"
#include "transfer/new_version.h"

namespace isr {
namespace {

using nlohmann::json;

struct CheckoutOptions {
  std::string name;
  std::optional<std::string> version;
  bool take_lock = false;
};

struct RollbackOptions {
  std::string name;
  bool take_lock = false;
};

struct SyncOptions {
  std::string name;
  std::string message;
  bool take_lock = false;
};

int check_out(CommandContext& context, OpenParcel& parcel, const CheckoutOptions& options) {
  fs::path socket;
  if (!local_state(parcel.account, parcel.entry)) {
    const VersionSelector selector = wanted_version(parcel, options.version);
    parcel.account.online("checking out " + parcel.entry.name);
    VersionChoice choice;
    if (!selector.choice.is_newest()) choice = load_version(parcel.account, parcel.entry, selector.choice).choice();
    socket = take_out(context, parcel, LockMode::kCheckout, choice, options.take_lock);
  } else if (options.version || parcel.version.given) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here already", parcel.entry.name));
  } else {
    const auto daemon = [&] { return socket = daemon_of_session(parcel, context.stop()); };
    ask_with_lock(context, parcel, daemon, OwnLockRequest{}, options.take_lock, "Opening " + parcel.entry.name);
  }
  const Status status = ask(socket, StatusRequest{}, {}, context.stop());
  const SessionStats& session = status.session;
  const std::string mount = printable_path(status.mount);
  if (context.out.json()) {
    context.out.document(
        {{"schema", 1}, {"parcel", parcel.entry.name}, {"mount", mount}, {"version", session.content}});
  } else {
    context.out.line(fmt::format("{}@{} is checked out at {}", parcel.entry.name, session.content, mount));
    if (session.version != session.content) {
      context.out.note(
          fmt::format("a newer version is there: what is saved from here becomes {}", session.version + 1));
    }
    if (session.phase == SessionPhase::kSuspended) {
      context.out.note("it is suspended, so its disks are read-only until it is resumed or powered off");
    }
  }
  return 0;
}

int run_checkout(CommandContext& context, const CheckoutOptions& options) {
  OpenParcel parcel = context.open_parcel(options.name);
  return with_session(parcel, [&] { return check_out(context, parcel, options); });
}

/// Of sync and checkin.
template <class OneRequest>
int publish(CommandContext& context, const OpenParcel& parcel, const fs::path& socket, const SyncOptions& options,
            const std::string& title, const std::string& done) {
  OneRequest request;
  if (!options.message.empty()) request.message = options.message;
  const PublishAnswer answer = ask_with_lock(
      context, parcel, [&] { return socket; }, request, options.take_lock, title + parcel.entry.name);
  return report_publish(context, parcel.entry.name, done, answer);
}

int run_sync(CommandContext& context, const SyncOptions& options) {
  const OpenParcel parcel = context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] {
    return publish<SyncRequest>(context, parcel, require_session(parcel), options, "Syncing ", "synced");
  });
}

int run_checkin(CommandContext& context, const SyncOptions& options) {
  const OpenParcel parcel = context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] {
    const auto socket = open_session(parcel);
    if (!socket) return report_nothing_here(context, parcel);
    return publish<CheckinRequest>(context, parcel, *socket, options, "Checking in ", "checked in");
  });
}

int discard(CommandContext& context, const OpenParcel& parcel, const std::string& name) {
  const fs::path socket = require_session(parcel);
  const Status status = ask(socket, StatusRequest{}, {}, context.stop());
  confirm(context.flags, fmt::format("{}: {} changed since version {} are dropped for good. Go on?", name,
                                     format_size(status.session.changed_bytes), status.session.content));
  const std::uint64_t version = ask_daemon(context, socket, DiscardRequest{}, "Discarding " + name).version;
  context.out.done(fmt::format("{} is back at version {}, still checked out here", name, version),
                   {{"parcel", name}, {"version", version}});
  return 0;
}

int run_discard(CommandContext& context, const std::string& name) {
  const OpenParcel parcel = context.open_parcel_without_version(name);
  return with_session(parcel, [&] { return discard(context, parcel, name); });
}

int run_rollback(CommandContext& context, const RollbackOptions& options) {
  const std::string& name = options.name;
  OpenParcel parcel = context.open_parcel(name);
  if (!parcel.version.given) {
    throw Error(ErrorKind::kUsage, "which version?",
                {fmt::format("isr rollback {}@V    isr log {} lists them", name, name)});
  }
  if (local_state(parcel.account, parcel.entry)) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here", parcel.entry.name),
                {fmt::format("isr checkin {}    first", parcel.entry.name)});
  }
  parcel.account.online("rolling back");
  const LoadedVersion old = load_version(parcel.account, parcel.entry, parcel.version.choice);
  const std::string what = fmt::format("{} {}", old.fork.empty() ? "version" : "fork", old.label());
  confirm(context.flags,
          fmt::format("{} becomes what it was at {}, as a new version. Go on?", parcel.entry.name, what));
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

void register_session(App& app) {
  auto checkout = std::make_shared<CheckoutOptions>();
  app.command(Group::kOffline, "checkout", "lock it and mount its disks here, without a VM")
      .argument("NAME[@V]", checkout->name, "the parcel")
      .option("-r,--version", checkout->version, "V", "another version than the newest, or a fork")
      .flag("--take-lock", checkout->take_lock,
            "also when another host holds the parcel; its unsynced work becomes a fork")
      .alias("co")
      .example("isr checkout work", "prints where its disks are")
      .example("isr checkout work -r 3", "go on from version 3")
      .note("After a crash it recovers everything that was written.")
      .note(
          "The lock does not expire: a checkout is for travelling. isr checkin gives it back, without a network as "
          "soon as "
          "there is one.")
      .exit_codes({0, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20})
      .run([checkout](CommandContext& context) { return run_checkout(context, *checkout); });

  auto checkin = std::make_shared<SyncOptions>();
  Command& checkin_command = app.command(Group::kOffline, "checkin", "upload and release; safe to interrupt and rerun");
  checkin_command.argument("NAME", checkin->name, "the parcel")
      .option("-m,--message", checkin->message, "TEXT", "shown by isr log")
      .alias("ci")
      .example("isr checkin work", "publish what changed")
      .example("isr checkin work -m 'new kernel'", "with a message")
      .exit_codes({0, 11, 13, 14, 15, 16, 17, 18, 20})
      .run([checkin](CommandContext& context) { return run_checkin(context, *checkin); });
  add_take_lock_of_session(checkin_command, checkin->take_lock);

  auto sync = std::make_shared<SyncOptions>();
  Command& sync_command = app.command(Group::kEveryday, "sync", "a new version; keep running here");
  sync_command.argument("NAME", sync->name, "the parcel")
      .option("-m,--message", sync->message, "TEXT", "shown by isr log")
      .example("isr sync work", "save it as it is now, memory and disks; it keeps running")
      .example("isr sync work -m 'before the upgrade'", "with a message")
      .note(
          "A running parcel stands still for some milliseconds, the upload goes on beside it. The version can be "
          "resumed like a suspended one: elsewhere when this host is lost, or here after isr poweroff and isr discard.")
      .exit_codes({0, 10, 11, 13, 14, 15, 16, 17, 18, 20})
      .run([sync](CommandContext& context) { return run_sync(context, *sync); });
  add_take_lock_of_session(sync_command, sync->take_lock);

  auto discard = std::make_shared<std::string>();
  app.command(Group::kGoingBack, "discard", "drop changes since the last sync")
      .argument("NAME", *discard, "the parcel")
      .example("isr discard work", "asks first")
      .example("isr discard work --yes", "does not ask")
      .exit_codes({0, 2, 10, 16, 20})
      .run([discard](CommandContext& context) { return run_discard(context, *discard); });

  auto rollback = std::make_shared<RollbackOptions>();
  app.command(Group::kGoingBack, "rollback", "the whole parcel as it was at a version")
      .argument("NAME@V", rollback->name, "the parcel, and the version or fork")
      .flag("--take-lock", rollback->take_lock,
            "also when another host holds the parcel; its unsynced work becomes a fork")
      .example("isr rollback work@3", "version 3 again, as a new version")
      .example("isr rollback work@latest~1", "one version back")
      .example("isr rollback work@desk-42-3f2a/41", "a fork becomes the newest version")
      .exit_codes({0, 2, 10, 11, 13, 14, 15, 16})
      .run([rollback](CommandContext& context) { return run_rollback(context, *rollback); });
}

}  // namespace isr
