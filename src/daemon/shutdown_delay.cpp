// systemd-inhibit holds the delay while the program that it starts lives. That program, gdbus, prints the signals of
// logind. So one child does both, and no D-Bus library is needed.

#include "daemon/shutdown_delay.h"

#include "base/error.h"
#include "base/log.h"

namespace isr {
namespace {

constexpr const char* kBegins = "PrepareForShutdown (true";

}  // namespace

ShutdownDelay::ShutdownDelay() {
  ChildOptions options;
  options.program = "systemd-inhibit";
  options.arguments = {"--what=shutdown",
                       "--mode=delay",
                       "--who=isr",
                       "--why=a machine is being suspended",
                       "gdbus",
                       "monitor",
                       "--system",
                       "--dest=org.freedesktop.login1",
                       "--object-path=/org/freedesktop/login1"};
  options.directory = "/";
  try {
    child_.start(std::move(options));
  } catch (const Error& error) {
    log::debug("a shutdown of this host is not delayed: {}", error.what());
  }
}

bool ShutdownDelay::begun() const { return child_.output().find(kBegins) != std::string::npos; }

}  // namespace isr
