#include "cli/session_commands.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "base/sizes.h"
#include "base/sleep.h"
#include "daemon/control.h"
#include "daemon/handover.h"
#include "daemon/session_daemon.h"
#include "machine/cdrom.h"
#include "machine/machine.h"
#include "session/held_lock.h"
#include "session/session.h"
#include "session/session_state.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr int kSessionAttempts = 3;  // more would mean that another user of this home ends each session at once
constexpr std::chrono::seconds kBeginningOrEnding{3};
constexpr std::chrono::milliseconds kPoll{50};

/// Before the lock is taken and before anything is downloaded.
void check_memory_loads_here(const OpenParcel& parcel, const LoadedVersion& loaded) {
  if (!loaded.version.suspended() || !loaded.version.stamp) return;
  const auto why = why_not_resumable(loaded.version.vm, *loaded.version.stamp, parcel.account.paths);
  if (!why) return;
  throw Error(ErrorKind::kVm, fmt::format("the memory of {} cannot be loaded here: {}", parcel.entry.name, *why),
              {fmt::format("isr start {}    boots from its disks and drops the memory", parcel.entry.name)});
}

/// What an attempt that failed has taken is given back.
void give_back(const OpenParcel& parcel) {
  try {
    ask(daemon_of_session(parcel, {}), CheckinRequest{});
  } catch (const Error&) {
    // It stays checked out here; the failure that is being reported says why nothing runs.
  }
}

fs::path check_out(CommandContext& context, OpenParcel& parcel, const RunOptions& options, bool fresh) {
  const VersionSelector selector = wanted_version(parcel, options.version);
  parcel.account.online("resuming " + parcel.entry.name);
  const LoadedVersion loaded = load_version(parcel.account, parcel.entry, selector.choice);
  if (!fresh) check_memory_loads_here(parcel, loaded);
  // The newest is what it is once the lock is ours.
  const VersionChoice choice = selector.choice.is_newest() ? VersionChoice{} : loaded.choice();
  return take_out(context, parcel, LockMode::kAttended, choice, options.take_lock);
}

/// What is in the drive when it boots, after what the command line says of it.
std::optional<fs::path> choose_cdrom(CommandContext& context, const OpenParcel& parcel, const RunOptions& options) {
  if (options.cdrom && *options.cdrom == "none") {
    eject_cdrom(parcel.account, parcel.entry);
  } else if (options.cdrom) {
    insert_cdrom(parcel.account, parcel.entry, *options.cdrom);
  }
  const auto inserted = inserted_cdrom(parcel.account, parcel.entry);
  if (!inserted) return std::nullopt;
  try {
    return check_cdrom(*inserted);
  } catch (const Error& error) {
    context.out.note(fmt::format("{}; the drive stays empty", error.what()));
    return std::nullopt;
  }
}

/// One line for people: how far the network of the guest goes.
std::string describe_network(NetworkMode mode, const std::string& name) {
  if (mode == NetworkMode::kNone) return "network none: the guest's cable is out";
  if (mode == NetworkMode::kUser) {
    return "network user: the guest connects as you do, also to services on this host's 127.0.0.1 (its 10.0.2.2)";
  }
  return fmt::format(
      "network restricted: the guest reaches nothing outside itself    --network user at the next "
      "start or resume of {} changes that",
      name);
}

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

void add_run_flags(Command& command, RunOptions& options) {
  command.argument("NAME[@V]", options.name, "the parcel, and the version if not the newest")
      .option("-r,--version", options.version, "V", "another version than the newest, or a fork")
      .choice("--accelerator", options.accelerator, {"auto", "kvm", "tcg"}, "what runs the guest's code")
      .choice("--network", options.network, network_modes(),
              "from now on: its cable is out, it reaches nothing outside, or it connects as you do")
      .flag("--no-network", options.no_network, "this time the guest reaches nothing outside")
      .flag("--take-lock", options.take_lock,
            "also when another host holds the parcel; its unsynced work becomes a fork")
      .note(
          "The lock of a host that has not been heard of for lock.lease seconds (600) is taken over when you agree on "
          "the terminal, or with --take-lock. A host that comes back to a lost lock is told so, and keeps its "
          "session.");
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

}  // namespace

namespace {

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

namespace {

/// What --json says of a start or resume.
json document_of(const std::string& name, const BootAnswer& answer, std::chrono::duration<double> took) {
  return {{"schema", 1},
          {"type", "summary"},
          {"parcel", name},
          {"resumed", answer.resumed},
          {"network", to_name(answer.network)},
          {"accelerator", answer.accelerator.name},
          {"accelerator_reason", answer.accelerator.reason},
          {"fetches_memory", answer.fetches_memory},
          {"boot_pack_pages", answer.boot_pack_pages},
          {"mount", printable_path(answer.mount)},
          {"seconds", took.count()}};
}

void print_boot(CommandContext& context, const std::string& name, const BootAnswer& answer, bool fresh,
                const std::optional<fs::path>& cdrom, std::chrono::duration<double> took) {
  if (!fresh && !answer.resumed) {
    context.out.note(fmt::format("{} had no saved memory: it boots from its disks", name));
  }
  if (cdrom && !answer.resumed) {
    context.out.note(
        fmt::format("in the CD drive: {}    isr start {} --cdrom none takes it out", printable_path(*cdrom), name));
  }
  context.out.note(fmt::format("accelerator {}: {}", answer.accelerator.name, answer.accelerator.reason));
  context.out.note(describe_network(answer.network, name));
  if (answer.fetches_memory) {
    context.out.note(fmt::format("its memory is being fetched; isr stat {} says when it is safe offline", name));
  }
  context.out.line(
      fmt::format("Running after {:.1f} s. Screen: isr view {}   console: isr console {}", took.count(), name, name));
}

int run_opened(CommandContext& context, OpenParcel& parcel, const RunOptions& options, bool fresh) {
  const auto began = std::chrono::steady_clock::now();
  const std::string& name = parcel.entry.name;
  const auto local = local_state(parcel.account, parcel.entry);
  if (local && local->daemon_alive && local->state == "running") {
    throw Error(ErrorKind::kVm, fmt::format("{} is running already", name), {fmt::format("isr view {}", name)});
  }
  if (local && (options.version || parcel.version.given)) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here at version {}", name, local->base),
                {fmt::format("isr checkin {}    or    isr discard {}    first", name, name)});
  }
  if (local && fresh && local->state == "suspended here") {
    confirm(context.flags, fmt::format("{} is suspended; starting it drops its memory. Start?", name));
  }
  const auto cdrom = choose_cdrom(context, parcel, options);
  const fs::path socket = local ? fs::path() : check_out(context, parcel, options, fresh);
  const auto daemon = [&] { return local ? daemon_of_session(parcel, context.stop()) : socket; };
  const BootPart boot{
      .network = find_network_mode(options.network),
      .isolate_network = options.no_network,
      .accelerator = options.accelerator.empty() ? context.config().get("vm.accelerator") : options.accelerator,
      .cdrom = cdrom};
  const bool take_lock = local && options.take_lock;
  BootAnswer answer;
  try {
    answer = fresh ? ask_with_lock(context, parcel, daemon, StartRequest{.boot = boot}, take_lock, "Starting " + name)
                   : ask_with_lock(context, parcel, daemon,
                                   ResumeRequest{.boot = boot, .prefetch = parse_prefetch(options.prefetch)}, take_lock,
                                   "Resuming " + name);
  } catch (const Error& error) {
    if (!local && error.kind() != ErrorKind::kDaemon && error.kind() != ErrorKind::kCancelled) give_back(parcel);
    throw;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  if (context.out.json()) {
    context.out.document(document_of(name, answer, took));
  } else {
    print_boot(context, name, answer, fresh, cdrom, took);
  }
  return 0;
}

}  // namespace

int run_vm(CommandContext& context, const RunOptions& options, bool fresh) {
  OpenParcel parcel = context.open_parcel(options.name);
  return with_session(parcel, [&] { return run_opened(context, parcel, options, fresh); });
}

}  // namespace isr
