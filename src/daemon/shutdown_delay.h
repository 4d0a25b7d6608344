#pragma once

#include "base/child_process.h"

namespace isr {

/// Where systemd-logind runs, a shutdown of this host waits while one of these lives, for as long as logind grants
/// (5 s unless InhibitDelayMaxSec says more). Elsewhere, and without systemd-inhibit or gdbus, it does nothing.
class ShutdownDelay {
 public:
  ShutdownDelay();
  /// logind has said that a shutdown begins.
  bool begun() const;

 private:
  ChildProcess child_;
};

}  // namespace isr
