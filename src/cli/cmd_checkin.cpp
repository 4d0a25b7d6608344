// checkin: publishes a session and ends it.
#include <fmt/format.h>

#include "cli/app.h"
#include "cli/ask_daemon.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "cli/publish_report.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

struct CheckinOptions {
  std::string name;
  std::string message;
  bool take_lock = false;
};

int check_in(CommandContext& context, const OpenParcel& parcel, const CheckinOptions& options) {
  const auto socket = open_session(parcel);
  if (!socket) return report_nothing_here(context, parcel);
  CheckinRequest request;
  if (!options.message.empty()) request.message = options.message;
  const PublishAnswer answer = ask_with_lock(
      context, parcel, [&] { return *socket; }, request, options.take_lock, "Checking in " + parcel.entry.name);
  return report_publish(context, parcel.entry.name, "checked in", answer);
}

int run_checkin(CommandContext& context, const CheckinOptions& options) {
  const OpenParcel parcel = context.open_parcel_without_version(options.name);
  return with_session(parcel, [&] { return check_in(context, parcel, options); });
}

}  // namespace

void register_checkin(App& app) {
  auto checkin = std::make_shared<CheckinOptions>();
  Command& checkin_command = app.command(Group::kOffline, "checkin", "upload and release; safe to interrupt and rerun");
  checkin_command.argument("NAME", checkin->name, "the parcel")
      .option("-m,--message", checkin->message, "TEXT", "shown by isr log")
      .alias("ci")
      .example("isr checkin work", "publish what changed")
      .example("isr checkin work -m 'new kernel'", "with a message")
      .exit_codes({0, 11, 13, 14, 15, 16, 17, 18, 20})
      .run([checkin](CommandContext& context) { return run_checkin(context, *checkin); });
  add_take_lock_of_session(checkin_command, checkin->take_lock);
}

}  // namespace isr
