// stop: asks the guest to shut down, then publishes its disks.
#include <fmt/format.h>

#include "cli/app.h"
#include "cli/ask_daemon.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "cli/publish_report.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

struct StopOptions {
  std::string name;
  std::optional<std::chrono::seconds> timeout = StopRequest{}.timeout;
  bool kill = false;
  bool take_lock = false;
};

/// Reports whether the guest of an interrupted stop still runs.
[[noreturn]] void throw_interrupted_stop(const std::string& name, const fs::path& socket, const Error& interrupted) {
  Status status;
  try {
    status = ask(socket, StatusRequest{});
  } catch (const Error&) {
    throw interrupted;  // the session ended meanwhile
  }
  if (status.busy.empty() && status.session.phase == SessionPhase::kRunning) {
    throw Error(interrupted.kind(),
                fmt::format("interrupted; {} was asked to shut down and may still do so; until then it runs", name),
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

}  // namespace

void register_stop(App& app) {
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
}

}  // namespace isr
