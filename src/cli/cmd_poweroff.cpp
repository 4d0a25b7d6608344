// poweroff: switches a VM off, or drops the memory of a suspended one.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/ask_daemon.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

int power_off(CommandContext& context, const OpenParcel& parcel, const std::string& name) {
  const fs::path socket = require_session(parcel);
  confirm(context.flags, fmt::format("{}: its memory is dropped, as in a power failure. Power off?", name));
  ask_daemon(context, socket, PowerOffRequest{}, "Switching off " + name);
  context.out.done(fmt::format("{} is off; its disks are kept, still checked out here", name), {{"parcel", name}});
  return 0;
}

int run_poweroff(CommandContext& context, const std::string& name) {
  const OpenParcel parcel = context.open_local_parcel(name);
  return with_session(parcel, [&] { return power_off(context, parcel, name); });
}

}  // namespace

void register_poweroff(App& app) {
  auto poweroff = std::make_shared<std::string>();
  app.command(Group::kGoingBack, "poweroff", "delete the memory image only")
      .argument("NAME", *poweroff, "the parcel")
      .example("isr poweroff work", "asks first")
      .example("isr poweroff work --yes", "does not ask")
      .exit_codes({0, 2, 10, 16, 20})
      .run([poweroff](CommandContext& context) { return run_poweroff(context, *poweroff); });
}

}  // namespace isr
