// The entry point of the program and of its daemons.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string_view>

#include "base/open_files.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "daemon/mount_daemon.h"
#include "daemon/session_daemon.h"

namespace {

/// If stdin were closed, the next file opened would become stdin.
void fill_standard_descriptors() {
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd > STDERR_FILENO) ::close(fd);
}

/// Protects the memory of this process, which holds keys, the password and a guest's data. No core file is written, and
/// no other program of this user can read the memory. QEMU inherits the limit and the filter, which keep its memory out
/// of core files.
void keep_memory_to_ourselves() {
  if (const int filter = ::open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC); filter >= 0) {
    (void)!::write(filter, "0", 1);
    ::close(filter);
  }
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  ::prctl(PR_SET_DUMPABLE, 0);  // a limit of 0 does not stop a core_pattern that is a pipe
}

}  // namespace

int main(int argc, char** argv) {
  fill_standard_descriptors();
  keep_memory_to_ourselves();
  ::signal(SIGXFSZ, SIG_IGN);  // a write beyond the file size limit then fails, with an error message of isr
  isr::raise_open_file_limit();
  const std::string_view first = argc == 2 ? argv[1] : "";
  if (first == isr::kSessionDaemonArgument) return isr::session_daemon_main();
  if (first == isr::kMountDaemonArgument) return isr::mount_daemon_main();
  isr::App app;
  for (isr::RegisterCommand* const register_command : isr::kCommands) register_command(app);
  return app.run(argc, argv);
}
