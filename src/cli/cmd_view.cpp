// view: opens the guest's screen, or prints the address of it.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/find_program.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

struct ViewOptions {
  std::string name;
  bool print_url = false;
};

int run_view(CommandContext& context, const ViewOptions& options) {
  const OpenParcel parcel = context.open_local_parcel(options.name);
  const Status status = ask(running_session(parcel), StatusRequest{}, {}, context.stop());
  if (!status.vm) throw Error(ErrorKind::kVm, fmt::format("{} is not running", parcel.entry.name));
  const std::string socket = status.vm->vnc_socket.string();
  const bool screen = std::getenv("DISPLAY") || std::getenv("WAYLAND_DISPLAY");
  if (!options.print_url && screen) {
    // Both programs accept a UNIX socket. exec leaves the terminal to them.
    if (find_program("remote-viewer")) {
      ::execlp("remote-viewer", "remote-viewer", ("vnc+unix://" + socket).c_str(), nullptr);
    }
    if (find_program("vncviewer")) ::execlp("vncviewer", "vncviewer", socket.c_str(), nullptr);
  }
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"vnc_socket", printable(socket)}});
  } else {
    context.out.line(socket);
    context.out.note(
        "the screen is a VNC server at this UNIX socket; with remote-viewer or vncviewer installed, view opens it");
  }
  return 0;
}

}  // namespace

void register_view(App& app) {
  auto view = std::make_shared<ViewOptions>();
  app.command(Group::kEveryday, "view", "open the screen")
      .argument("NAME", view->name, "the parcel")
      .flag("--print-url", view->print_url, "print the VNC socket instead")
      .example("isr view work", "in a VNC viewer")
      .example("isr view work --print-url", "where the VNC server listens")
      .exit_codes({0, 10, 16, 20})
      .run([view](CommandContext& context) { return run_view(context, *view); });
}

}  // namespace isr
