#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

#include "vm/accelerator.h"

namespace isr {

/// A running VM, as `isr stat` shows it.
struct VmStats {
  pid_t pid = 0;
  std::string state;      ///< as QMP names it ("running", "paused", …), or "not answering"
  bool io_error = false;  ///< QEMU holds the guest because a disk failed
  bool guest_panicked = false;
  Accelerator accelerator;
  std::string memory;     ///< how QEMU maps it: to_name(MemoryMapping)
  std::string awakening;  ///< how the clock of a resumed guest was set, in words; empty until then
  std::filesystem::path vnc_socket;
};

}  // namespace isr
