// resume: continues a suspended VM on this host.
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/run_vm.h"

namespace isr {

void register_resume(App& app) {
  auto resume = std::make_shared<RunOptions>();
  Command& resume_command = app.command(Group::kEveryday, "resume", "check out if needed, then continue where it was");
  add_run_flags(resume_command, *resume);
  resume_command
      .choice("--prefetch", resume->prefetch, {"none", "ws", "all"},
              "fetch ahead: nothing (none), what it reads first (ws), all of its memory (all)")
      .example("isr resume work", "continue the newest version of work")
      .example("isr resume work -r 3", "continue version 3")
      .note(
          "What the machine reads first comes before it runs, the rest behind it; isr stat says when all of its "
          "memory is here.")
      .note("Without saved memory, after a stop or a crash, the parcel boots from its disks.")
      .exit_codes({0, 10, 11, 12, 13, 14, 15, 16, 19, 20})
      .run([resume](CommandContext& context) { return run_vm(context, *resume, false); });
}

}  // namespace isr
