// suspend: saves the memory of a VM that runs here, and publishes it.
#include <fmt/format.h>

#include "cli/app.h"
#include "cli/ask_daemon.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "cli/publish_report.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

struct SuspendOptions {
  std::string name;
  bool no_upload = false;
  std::string message = SuspendRequest{}.message;
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
    throw Error(ErrorKind::kUsage, "--take-lock is for an upload, so it cannot be used with --no-upload");
  }
  const OpenParcel parcel =
      options.no_upload ? context.open_local_parcel(options.name) : context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] { return suspend(context, parcel, options); });
}

}  // namespace

void register_suspend(App& app) {
  auto suspending = std::make_shared<SuspendOptions>();
  Command& suspend_command = app.command(Group::kEveryday, "suspend", "save memory and disks, upload, release");
  suspend_command.argument("NAME", suspending->name, "the parcel")
      .flag("--no-upload", suspending->no_upload, "keep it on this host; a later suspend uploads it")
      .option("-m,--message", suspending->message, "TEXT", "shown by isr log")
      .example("isr suspend work", "now it can be resumed on any host")
      .example("isr suspend work --no-upload", "quick, and without the network")
      .note("If it was interrupted, run it again to continue. Without changes there is no new version.")
      .note(
          "While it uploads, a copy of the machine runs a second more, unseen and without a network, to learn what a "
          "resume reads first. isr config set suspend.rehearsal false turns that off.")
      .note(
          "A guest that runs qemu-guest-agent drops its page cache before, so that there is less to upload; that takes "
          "5 s at most. isr config set suspend.drop_caches false turns that off.")
      .exit_codes({0, 11, 13, 14, 15, 16, 17, 18, 20})
      .run([suspending](CommandContext& context) { return run_suspend(context, *suspending); });
  add_take_lock_of_session(suspend_command, suspending->take_lock);
}

}  // namespace isr
