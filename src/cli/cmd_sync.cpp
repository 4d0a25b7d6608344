// sync: publishes a session, which then continues.
#include <fmt/format.h>

#include "cli/app.h"
#include "cli/ask_daemon.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "cli/publish_report.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

struct SyncOptions {
  std::string name;
  std::string message;
  bool take_lock = false;
};

int sync(CommandContext& context, const OpenParcel& parcel, const SyncOptions& options) {
  const fs::path socket = require_session(parcel);
  SyncRequest request;
  if (!options.message.empty()) request.message = options.message;
  const PublishAnswer answer = ask_with_lock(
      context, parcel, [&] { return socket; }, request, options.take_lock, "Syncing " + parcel.entry.name);
  return report_publish(context, parcel.entry.name, "synced", answer);
}

int run_sync(CommandContext& context, const SyncOptions& options) {
  const OpenParcel parcel = context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] { return sync(context, parcel, options); });
}

}  // namespace

void register_sync(App& app) {
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
}

}  // namespace isr
