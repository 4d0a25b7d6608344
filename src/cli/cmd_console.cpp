// console and view: what the guest says and shows.

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "base/find_program.h"
#include "cli/commands.h"
#include "cli/session_commands.h"
#include "daemon/protocol.h"
#include "session/session_state.h"

namespace isr {
namespace {

struct ConsoleOptions {
  std::string name;
  bool log = false;
};

struct ViewOptions {
  std::string name;
  bool print_url = false;
};

fs::path running_session(const OpenParcel& parcel) {
  const auto local = local_state(parcel.account, parcel.entry);
  if (!local || !local->daemon_alive) {
    throw Error(ErrorKind::kVm, fmt::format("{} is not running here", parcel.entry.name),
                {fmt::format("isr resume {}", parcel.entry.name)});
  }
  return control_socket(parcel.account, parcel.entry);
}

/// Lines that are typed here go to the guest.
void type_lines(const fs::path& socket, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::poll(&input, 1, 200) <= 0) continue;
    char bytes[1024];
    const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (n <= 0) return;
    try {
      ask(socket, TypeRequest{std::string(bytes, static_cast<std::size_t>(n))});
    } catch (const Error&) {
      return;  // the guest has gone; following it ends, too
    }
  }
}

int run_console(CommandContext& context, const ConsoleOptions& options) {
  const OpenParcel parcel = context.open_local_parcel(options.name);
  const fs::path socket = running_session(parcel);
  std::jthread typing;
  if (!options.log) {
    context.out.note("what you type goes to the guest; Ctrl-C leaves");
    typing = std::jthread([&](const std::stop_token& stop) { type_lines(socket, stop); });
  }
  const ConsoleAnswer answer = ask(
      socket, ConsoleRequest{.follow = !options.log}, [&](const ConsoleLine& line) { context.out.raw(line.text); },
      context.stop());
  if (answer.ended) context.out.note(fmt::format("the guest of {} has ended", parcel.entry.name));
  return 0;
}

int run_view(CommandContext& context, const ViewOptions& options) {
  const OpenParcel parcel = context.open_local_parcel(options.name);
  const Status status = ask(running_session(parcel), StatusRequest{}, {}, context.stop());
  if (!status.vm) throw Error(ErrorKind::kVm, fmt::format("{} is not running", parcel.entry.name));
  const std::string socket = status.vm->vnc_socket.string();
  const bool screen = std::getenv("DISPLAY") || std::getenv("WAYLAND_DISPLAY");
  if (!options.print_url && screen) {
    // Both take a UNIX socket; exec leaves the terminal to them.
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

void register_console(App& app) {
  auto console = std::make_shared<ConsoleOptions>();
  app.command(Group::kEveryday, "console", "the guest's serial console")
      .argument("NAME", console->name, "the parcel")
      .flag("--log", console->log, "print all that it has said so far, and end")
      .example("isr console work", "Ctrl-C leaves")
      .example("isr console work --log", "for scripts")
      .exit_codes({0, 10, 16, 20, 130})
      .run([console](CommandContext& context) { return run_console(context, *console); });

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
