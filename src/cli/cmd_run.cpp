// suspend, stop, poweroff: how a VM that runs here comes to rest.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/session_commands.h"
#include "daemon/protocol.h"
#include "session/session_state.h"

namespace isr {
namespace {

struct SuspendOptions {
  std::string name;
  bool no_upload = false;
  std::string message = SuspendRequest{}.message;
  bool take_lock = false;
};

struct StopOptions {
  std::string name;
  std::optional<std::chrono::seconds> timeout = StopRequest{}.timeout;
  bool kill = false;
  bool take_lock = false;
};

int suspend(CommandContext& context, const OpenParcel& parcel, const SuspendOptions& options) {
  const auto socket = open_session(parcel);
  if (!socket) return report_nothing_here(context, parcel);
  const auto answer = ask_with_lock(
      context, parcel, [&] { return *socket; },
      SuspendRequest{.upload = !options.no_upload, .message = options.message}, options.take_lock,
      "Suspending " + parcel.entry.name);
  return report_publish(context, parcel.entry.name, "suspended", answer);
}

int run_suspend(CommandContext& context, const SuspendOptions& options) {
  if (options.no_upload && options.take_lock) {
    throw Error(ErrorKind::kUsage, "--take-lock is for an upload, and --no-upload makes none");
  }
  const OpenParcel parcel =
      options.no_upload ? context.open_local_parcel(options.name) : context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] { return suspend(context, parcel, options); });
}

/// Says whether the guest of an interrupted stop still runs.
[[noreturn]] void throw_interrupted_stop(const std::string& name, const fs::path& socket, const Error& interrupted) {
  Status status;
  try {
    status = ask(socket, StatusRequest{});
  } catch (const Error&) {
    throw interrupted;  // the session has ended meanwhile
  }
  if (status.busy.empty() && status.session.phase == SessionPhase::kRunning) {
    throw Error(interrupted.kind(),
                fmt::format("interrupted; {} was asked to shut down and may still do so, until then it runs", name),
                {fmt::format("isr stop {}       asks again and saves its disks", name),
                 fmt::format("isr suspend {}    keeps it as it is", name)});
  }
  if (status.busy != StopRequest::kCommand) throw interrupted;
  throw Error(interrupted.kind(), fmt::format("interrupted; {} is off, and its disks are being saved", name),
              {fmt::format("isr stop {}    waits for that", name)});
}

int stop(CommandContext& context, const OpenParcel& parcel, const StopOptions& options) {
  const auto socket = open_session(parcel);
  if (!socket) return report_nothing_here(context, parcel);
  try {
    const auto answer = ask_with_lock(
        context, parcel, [&] { return *socket; }, StopRequest{.timeout = *options.timeout, .kill = options.kill},
        options.take_lock, "Stopping " + parcel.entry.name);
    return report_publish(context, parcel.entry.name, "saved", answer);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw_interrupted_stop(parcel.entry.name, *socket, error);
    throw;
  }
}

int run_stop(CommandContext& context, const StopOptions& options) {
  const OpenParcel parcel = context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] { return stop(context, parcel, options); });
}

int power_off(CommandContext& context, const OpenParcel& parcel, const std::string& name) {
  const fs::path socket = require_session(parcel);
  confirm(context.flags, fmt::format("{}: its memory is dropped, as if its power failed. Power off?", name));
  ask_daemon(context, socket, PowerOffRequest{}, "Switching off " + name);
  context.out.done(fmt::format("{} is off; its disks are kept, still checked out here", name), {{"parcel", name}});
  return 0;
}

int run_poweroff(CommandContext& context, const std::string& name) {
  const OpenParcel parcel = context.open_local_parcel(name);
  return with_session(parcel, [&] { return power_off(context, parcel, name); });
}

}  // namespace

void register_run(App& app) {
  auto suspending = std::make_shared<SuspendOptions>();
  Command& suspend_command = app.command(Group::kEveryday, "suspend", "save memory and disks, upload, release");
  suspend_command.argument("NAME", suspending->name, "the parcel")
      .flag("--no-upload", suspending->no_upload, "keep it on this host; a later suspend uploads it")
      .option("-m,--message", suspending->message, "TEXT", "shown by isr log")
      .example("isr suspend work", "now it can be resumed anywhere")
      .example("isr suspend work --no-upload", "at once, without the network")
      .note("Interrupted and run again, it goes on. Nothing changed: no new version.")
      .note(
          "While it uploads, a copy of the machine runs a second more, unseen and without a network, to learn what a "
          "resume reads first. isr config set suspend.rehearsal false turns that off.")
      .note(
          "A guest that runs qemu-guest-agent drops its page cache before, so that there is less to upload; that takes "
          "5 s at most. isr config set suspend.drop_caches false turns that off.")
      .exit_codes({0, 11, 13, 14, 15, 16, 17, 18, 20})
      .run([suspending](CommandContext& context) { return run_suspend(context, *suspending); });
  add_take_lock_of_session(suspend_command, suspending->take_lock);

  auto stopping = std::make_shared<StopOptions>();
  Command& stop_command = app.command(Group::kEveryday, "stop", "ask the guest to shut down, then save the disks");
  stop_command.argument("NAME", stopping->name, "the parcel")
      .duration("--timeout", stopping->timeout, "how long the guest may take (60s)")
      .flag("--kill", stopping->kill, "switch it off when it takes longer")
      .example("isr stop work", "shut down and upload")
      .example("isr stop work --timeout 5m --kill", "wait five minutes at most")
      .note("Ctrl-C gives up waiting for the guest: it goes on, unless it is shutting down already.")
      .exit_codes({0, 11, 13, 14, 15, 16, 17, 18, 20})
      .run([stopping](CommandContext& context) { return run_stop(context, *stopping); });
  add_take_lock_of_session(stop_command, stopping->take_lock);

  auto poweroff = std::make_shared<std::string>();
  app.command(Group::kGoingBack, "poweroff", "delete the memory image only")
      .argument("NAME", *poweroff, "the parcel")
      .example("isr poweroff work", "asks first")
      .example("isr poweroff work --yes", "does not ask")
      .exit_codes({0, 2, 10, 16, 20})
      .run([poweroff](CommandContext& context) { return run_poweroff(context, *poweroff); });
}

}  // namespace isr
