// branch: makes a new parcel from any version or fork.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/parcel_version.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "session/session_state.h"
#include "transfer/import.h"
#include "transfer/new_version.h"

namespace isr {
namespace {

struct BranchOptions {
  std::string name;
  std::string target;
};

int run_branch(CommandContext& context, const BranchOptions& options) {
  const ParcelName target = parse_new_parcel_name(options.target);
  OpenParcel parcel = context.open_parcel(options.name);
  Account& account = parcel.account;
  if (!target.repository.empty() && target.repository != account.remote.entry.name) {
    throw Error(ErrorKind::kUsage, fmt::format("{} is in the repository {}, so its branches must be there, too",
                                               parcel.entry.name, account.remote.entry.name));
  }
  refuse_taken_name(account, target.parcel);
  if (!account.remote.store->writable()) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} is read-only, so a branch cannot store its first version there",
                            account.remote.store->describe()));
  }
  const LoadedVersion from = load_version(account, parcel.entry, parcel.version.choice);
  branch_parcel(account, parcel.entry, from, target.parcel, context.stop());
  const std::string origin = fmt::format("{}@{}", parcel.entry.name, from.label());
  if (!parcel.version.given && local_state(account.host, parcel.entry)) {
    context.out.note(fmt::format("{0} is checked out here; its changes since version {1} are not in {2}",
                                 parcel.entry.name, from.label(), target.parcel));
  }
  const bool suspended = from.version.suspended();
  context.out.done(
      fmt::format("{}@1 is a branch of {}{}", target.parcel, origin, suspended ? ", suspended like its original" : ""),
      {{"parcel", target.parcel}, {"version", 1}, {"branch_of", origin}, {"suspended", suspended}});
  return 0;
}

}  // namespace

void register_branch(App& app) {
  auto options = std::make_shared<BranchOptions>();
  app.command(Group::kGoingBack, "branch", "a new parcel from any version or fork, memory included")
      .argument("NAME[@V]", options->name, "the parcel, and the version or fork if not the newest version")
      .argument("NEW", options->target, "name of the new parcel")
      .example("isr branch work lab", "lab begins with the newest version of work")
      .example("isr branch work@desk-42-3f2a/41 lab", "makes a parcel from a fork")
      .note("Nothing is copied: both refer to the same objects in the repository. Each has its own lock and history.")
      .note("A branch of a suspended machine is suspended, too. When resumed, both continue from the same moment.")
      .exit_codes({0, 2, 10, 12, 13, 14, 15, 19})
      .run([options](CommandContext& context) { return run_branch(context, *options); });
}

}  // namespace isr
