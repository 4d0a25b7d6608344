#pragma once

#include "base/child_process.h"

namespace isr {

/// While it lives, delays a shutdown of this host, for as long as systemd-logind grants (5 s unless InhibitDelayMaxSec
/// says more). Without systemd-logind, systemd-inhibit or gdbus it does nothing.
class ShutdownDelay {
 public:
  ShutdownDelay();
  /// True once logind has announced a shutdown.
  bool begun() const;

 private:
  ChildProcess child_;
};

}  // namespace isr
