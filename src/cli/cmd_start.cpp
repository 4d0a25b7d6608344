// start: boots a VM on this host from its disks.
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/run_vm.h"

namespace isr {

void register_start(App& app) {
  auto start = std::make_shared<RunOptions>();
  Command& start_command = app.command(Group::kEveryday, "start", "boot from the disks without restoring memory");
  add_run_flags(start_command, *start);
  start_command.option("--cdrom", start->cdrom, "ISO|none", "put this image into the CD drive; none takes the CD out")
      .example("isr start work", "boot work")
      .example("isr start work --cdrom install.iso",
               "boots the CD if no disk boots; it stays in the drive until taken out")
      .note("The CD is only a file on this host and not part of a version, so after a resume the drive is empty.")
      .exit_codes({0, 10, 11, 12, 13, 14, 15, 16, 19, 20})
      .run([start](CommandContext& context) { return run_vm(context, *start, true); });
}

}  // namespace isr
