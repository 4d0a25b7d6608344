// checkout: locks a parcel and mounts its disks here, without a VM.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "cli/app.h"
#include "cli/ask_daemon.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "cli/new_session.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

struct CheckoutOptions {
  std::string name;
  std::optional<std::string> version;
  bool take_lock = false;
};

int check_out(CommandContext& context, OpenParcel& parcel, const CheckoutOptions& options) {
  fs::path socket;
  if (!local_state(parcel.account.host, parcel.entry)) {
    const VersionSelector selector = wanted_version(parcel, options.version);
    parcel.account.remote.online("checking out " + parcel.entry.name);
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
          fmt::format("there is a newer version, so the next version saved here becomes {}", session.version + 1));
    }
    if (session.phase == SessionPhase::kSuspended) {
      context.out.note("the parcel is suspended, so its disks are read-only until it is resumed or powered off");
    }
  }
  return 0;
}

int run_checkout(CommandContext& context, const CheckoutOptions& options) {
  OpenParcel parcel = context.open_parcel(options.name);
  return with_session(parcel, [&] { return check_out(context, parcel, options); });
}

}  // namespace

void register_checkout(App& app) {
  auto checkout = std::make_shared<CheckoutOptions>();
  app.command(Group::kOffline, "checkout", "lock it and mount its disks here, without a VM")
      .argument("NAME[@V]", checkout->name, "the parcel")
      .option("-r,--version", checkout->version, "V", "another version than the newest, or a fork")
      .flag("--take-lock", checkout->take_lock,
            "take the lock even from another host; its unsynced work becomes a fork")
      .alias("co")
      .example("isr checkout work", "prints where its disks are")
      .example("isr checkout work -r 3", "continue from version 3")
      .note("After a crash it recovers everything that was written.")
      .note(
          "The lock does not expire: a checkout is for travelling. isr checkin gives it back, without a network as "
          "soon as "
          "there is one.")
      .exit_codes({0, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20})
      .run([checkout](CommandContext& context) { return run_checkout(context, *checkout); });
}

}  // namespace isr
