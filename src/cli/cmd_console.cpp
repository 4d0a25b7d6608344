// console: shows the guest's serial console, and sends typed lines to it.

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <thread>

#include "cli/app.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "daemon/protocol.h"

namespace isr {
namespace {

struct ConsoleOptions {
  std::string name;
  bool log = false;
};

/// Sends typed lines to the guest.
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
      return;  // the guest is gone, which also ends the output
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

}  // namespace

void register_console(App& app) {
  auto console = std::make_shared<ConsoleOptions>();
  app.command(Group::kEveryday, "console", "the guest's serial console")
      .argument("NAME", console->name, "the parcel")
      .flag("--log", console->log, "print all output so far, and end")
      .example("isr console work", "Ctrl-C leaves")
      .example("isr console work --log", "for scripts")
      .exit_codes({0, 10, 16, 20, 130})
      .run([console](CommandContext& context) { return run_console(context, *console); });
}

}  // namespace isr
