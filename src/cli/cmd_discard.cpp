// discard: drops what changed here since the last sync.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "cli/app.h"
#include "cli/ask_daemon.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

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

}  // namespace

void register_discard(App& app) {
  auto discard = std::make_shared<std::string>();
  app.command(Group::kGoingBack, "discard", "drop changes since the last sync")
      .argument("NAME", *discard, "the parcel")
      .example("isr discard work", "asks first")
      .example("isr discard work --yes", "does not ask")
      .exit_codes({0, 2, 10, 16, 20})
      .run([discard](CommandContext& context) { return run_discard(context, *discard); });
}

}  // namespace isr
