// checkout, checkin, sync, discard, rollback, stat: the session without its VM.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "base/sizes.h"
#include "cli/commands.h"
#include "cli/session_commands.h"
#include "daemon/control.h"
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
    take_over_if_agreed(context, parcel, options.take_lock, [&](const auto& steal_reason) {
      socket = daemon_of_session(parcel, context.stop());
      json request{{"command", "lock"}, {"online", !parcel.account.offline()}};
      if (steal_reason) request["steal_reason"] = *steal_reason;
      ask_daemon(context, socket, request, "Opening " + parcel.entry.name);
    });
  }
  const json status = control_request(socket, {{"command", "status"}}, {}, context.stop());
  const auto content = status.value("content", std::uint64_t{0});
  if (context.out.json()) {
    context.out.document(
        {{"schema", 1}, {"parcel", parcel.entry.name}, {"mount", mount_of(status)}, {"version", content}});
  } else {
    context.out.line(fmt::format("{}@{} is checked out at {}", parcel.entry.name, content, mount_of(status)));
    if (const auto newest = status.value("version", std::uint64_t{0}); newest != content) {
      context.out.note(fmt::format("a newer version is there: what is saved from here becomes {}", newest + 1));
    }
    if (status.value("phase", "") == "suspended") {
      context.out.note("it is suspended, so its disks are read-only until it is resumed or powered off");
    }
  }
  return 0;
}

int run_checkout(CommandContext& context, const CheckoutOptions& options) {
  OpenParcel parcel = context.open_parcel(options.name);
  return with_session(parcel, [&] { return check_out(context, parcel, options); });
}

int publish(CommandContext& context, const OpenParcel& parcel, const SyncOptions& options, const std::string& command,
            const std::string& title, const std::string& done) {
  const auto socket = open_session(parcel);
  if (!socket && command == "checkin") return report_nothing_here(context, parcel);
  json request{{"command", command}};
  if (!options.message.empty()) request["message"] = options.message;
  const json result = ask_to_publish(context, parcel, socket ? *socket : require_session(parcel), request,
                                     options.take_lock, title + parcel.entry.name);
  return report_publish(context, parcel.entry.name, done, result);
}

int publish_command(CommandContext& context, const SyncOptions& options, const std::string& command,
                    const std::string& title, const std::string& done) {
  const OpenParcel parcel = context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] { return publish(context, parcel, options, command, title, done); });
}

int discard(CommandContext& context, const OpenParcel& parcel, const std::string& name) {
  const fs::path socket = require_session(parcel);
  const json status = control_request(socket, {{"command", "status"}}, {}, context.stop());
  confirm(context.flags, fmt::format("{}: {} changed since version {} are dropped for good. Go on?", name,
                                     format_size(status.value("changed_bytes", std::uint64_t{0})),
                                     status.value("content", std::uint64_t{0})));
  const json result = ask_daemon(context, socket, {{"command", "discard"}}, "Discarding " + name);
  const auto version = result.value("version", std::uint64_t{0});
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

/// How much of a continued guest's memory is on this host.
void print_memory(const Output& out, const json& status) {
  if (!status.contains("fetching_ahead")) return;
  const json& ahead = status.at("fetching_ahead");
  const auto of = [](const json& object, const char* key) { return object.value(key, std::uint64_t{0}); };
  const std::string_view waits = ahead.value("waiting", false) ? "; waiting for the repository" : "";
  if (of(ahead, "order_chunks_here") < of(ahead, "order_chunks")) {
    out.line(fmt::format("MEMORY   fetching what it reads first: {} of {}{}",
                         format_size(of(ahead, "order_chunks_here") * kChunkSize),
                         format_size(of(ahead, "order_chunks") * kChunkSize), waits));
    return;
  }
  if (!status.contains("memory")) return;
  const json& memory = status.at("memory");
  const std::uint64_t all = of(memory, "chunks");
  const std::uint64_t here = of(memory, "chunks_here");
  const auto safe_since = from_rfc3339(memory.value("offline_safe_since", ""));
  if (safe_since) {
    out.line(fmt::format("MEMORY   100% here, {}; offline-safe since {}", format_size(all * kChunkSize),
                         describe_when(*safe_since, wall_now())));
  } else {
    out.line(fmt::format("MEMORY   {}% here, {} of {}{}", all == 0 ? 100 : here * 100 / all,
                         format_size(here * kChunkSize), format_size(all * kChunkSize), waits));
  }
}

void print_status(CommandContext& context, const std::string& name, const json& status) {
  const auto number = [&](const char* key) { return status.value(key, std::uint64_t{0}); };
  const auto& out = context.out;
  const auto since = from_rfc3339(status.value("since", ""));
  std::string state = status.value("state", "");
  if (!state.ends_with("here")) state += " here";
  out.line(fmt::format("{}@{}  {} since {}", name, number("content"), state,
                       since ? describe_when(*since, wall_now()) : "?"));
  if (const std::string busy = status.value("busy", ""); !busy.empty()) out.line("BUSY     " + busy);
  out.line(fmt::format("MOUNT    {}", status.value("mount", "")));
  out.line(fmt::format("CHANGED  {} since version {}, journal {}", format_size(number("changed_bytes")),
                       number("content"), format_size(number("journal_bytes"))));
  for (const json& image : status.value("images", json::array())) {
    out.line(fmt::format("  {:<10} {:>10}   read {}, wrote {}", image.value("name", ""),
                         format_size(image.value("size", std::uint64_t{0})),
                         format_size(image.value("read_bytes", std::uint64_t{0})),
                         format_size(image.value("written_bytes", std::uint64_t{0}))));
  }
  if (status.contains("vm")) {
    const json& vm = status.at("vm");
    out.line(fmt::format("VM       {} ({}: {}), process {}", vm.value("state", ""), vm.value("accelerator", ""),
                         vm.value("accelerator_reason", ""), vm.value("pid", 0)));
    if (const std::string clock = vm.value("awakening", ""); !clock.empty()) out.line("         " + clock);
    if (vm.value("io_error", false)) out.line("         held because a disk failed; it is tried again every 10 s");
    if (vm.value("guest_panicked", false))
      out.line("         the guest's kernel has panicked; isr console shows what it said");
  }
  print_memory(out, status);
  const json& sources = status.at("sources");
  std::string others;  // sources that only some hosts have
  for (const json& tier : sources.value("tiers", json::array())) {
    const std::string source = tier.value("name", "");
    if (source == "settled" || source == "cache" || source == "repository") continue;
    others += fmt::format(", {} {}", printable(source), tier.value("hits", std::uint64_t{0}));
  }
  out.line(fmt::format("READS    cache {}{}, repository {} ({}), of which the guest waited for {}",
                       sources.value("cache_hits", std::uint64_t{0}), others,
                       sources.value("repository_fetches", std::uint64_t{0}),
                       format_size(sources.value("repository_bytes", std::uint64_t{0})),
                       sources.value("guest_fetches", std::uint64_t{0})));
  if (sources.value("waiting", std::uint64_t{0}) > 0) {
    out.line(fmt::format("WAITING  for the repository, which cannot be reached: {}",
                         printable(sources.value("waiting_for", ""))));
  }
  if (const std::string why = status.value("memory_waits_for", ""); !why.empty())
    out.line("WAITING  to write the guest's memory: " + printable(why));
  if (status.value("lock_lost", false))
    out.line("LOCK     lost; what is suspended here becomes a fork if another host has it");
  if (const std::string event = status.value("last_event", ""); !event.empty()) out.line("LAST     " + event);
}

json status_without_daemon(const Account& account, const ParcelEntry& parcel, const std::optional<LocalState>& local) {
  const std::string state = local ? local->state : "not checked out here";
  return {{"schema", 1},
          {"parcel", parcel.name},
          {"state", state},
          {"phase", state},
          {"upload_due", local && local->upload_due},
          {"lock_due", !local && has_lock_to_give_back(account, parcel)},
          {"version", local ? local->base : 0}};
}

json status_of(CommandContext& context, const Account& account, const ParcelEntry& parcel) {
  auto local = settled_local_state(account, parcel, context.stop());
  if (!local || !local->daemon_alive) return status_without_daemon(account, parcel, local);
  json status;
  try {
    status = control_request(control_socket(account, parcel), {{"command", "status"}}, {}, context.stop());
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDaemon) throw;
    local = settled_local_state(account, parcel, context.stop());
    if (local && local->daemon_alive) throw;
    return status_without_daemon(account, parcel, local);  // it has ended just now
  }
  status.erase("type");
  status["mount"] = mount_of(status);
  status["state"] = local->state;
  status["upload_due"] = local->upload_due;
  return status;
}

void print_stat(CommandContext& context, const json& status) {
  const std::string name = status.value("parcel", "");
  if (status.contains("mount")) {
    print_status(context, name, status);
  } else {
    context.out.line(fmt::format("{}: {}", name, status.value("state", "")));
  }
  if (status.value("lock_due", false)) {
    context.out.line("LOCK     given back when the repository can be reached again");
  }
  if (status.value("upload_due", false)) {
    context.out.line(fmt::format("UPLOAD   not done yet: isr suspend {} uploads it", name));
  }
}

Account open_local_account(CommandContext& context) {
  try {
    return context.open_account({}, impatient(), true);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kOffline || context.offline()) throw;
    return context.open_account({}, impatient(), false);  // never used on this host
  }
}

/// All parcels that are checked out here.
int run_stat_all(CommandContext& context) {
  Account account = open_local_account(context);
  const Profile profile = read_profile(account);
  json all = json::array();
  for (const ParcelEntry& parcel : profile.parcels) {
    if (local_state(account, parcel) || has_lock_to_give_back(account, parcel))
      all.push_back(status_of(context, account, parcel));
  }
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"parcels", all}});
    return 0;
  }
  if (all.empty()) context.out.note("no parcel is checked out here; isr ls shows all");
  for (const json& status : all) print_stat(context, status);
  return 0;
}

int run_stat(CommandContext& context, const std::string& name) {
  if (name.empty()) return run_stat_all(context);
  const OpenParcel parcel = context.open_local_parcel(name);
  const json status = status_of(context, parcel.account, parcel.entry);
  if (context.out.json()) {
    context.out.document(status);
  } else {
    print_stat(context, status);
  }
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
      .run([checkin](CommandContext& context) {
        return publish_command(context, *checkin, "checkin", "Checking in ", "checked in");
      });
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
      .run([sync](CommandContext& context) { return publish_command(context, *sync, "sync", "Syncing ", "synced"); });
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

  auto stat = std::make_shared<std::string>();
  app.command(Group::kEveryday, "stat", "local state, cache and transfer numbers")
      .optional_argument("NAME", *stat, "the parcel; else all that are checked out here")
      .example("isr stat work", "for people")
      .example("isr stat work --json", "for scripts; \"mount\" is the directory")
      .exit_codes({0, 10, 20})
      .run([stat](CommandContext& context) { return run_stat(context, *stat); });
}

}  // namespace isr
