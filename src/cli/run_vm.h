#pragma once

#include "cli/app.h"

/// Shared by start and resume: a VM begins to run here.
namespace isr {

/// Flags that start and resume share, and those that only one of them has.
struct RunOptions {
  std::string name;
  std::optional<std::string> version;
  std::string accelerator;  ///< "" as configured
  std::string network;      ///< "" as it was
  bool no_network = false;
  bool take_lock = false;
  std::string prefetch = "all";      ///< of resume
  std::optional<std::string> cdrom;  ///< of start: an image to insert, or "none"
};

void add_run_flags(Command& command, RunOptions& options);
/// Checks out if needed, starts the daemon if needed, then boots (fresh) or resumes; the exit code.
int run_vm(CommandContext& context, const RunOptions& options, bool fresh);

}  // namespace isr
