#pragma once

#include "cli/app.h"

/// Shared by start and resume: begins to run a VM here.
namespace isr {

/// The flags of start and resume. Some belong to one of them only.
struct RunOptions {
  std::string name;
  std::optional<std::string> version;
  std::string accelerator;  ///< "": as configured
  std::string network;      ///< "": as before
  bool no_network = false;
  bool take_lock = false;
  std::string prefetch = "all";      ///< for resume
  std::optional<std::string> cdrom;  ///< for start: an image to insert, or "none"
};

void add_run_flags(Command& command, RunOptions& options);
/// Checks out and starts the daemon if necessary, then boots (fresh) or resumes. Returns the exit code.
int run_vm(CommandContext& context, const RunOptions& options, bool fresh);

}  // namespace isr
