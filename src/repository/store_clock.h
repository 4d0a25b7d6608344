#pragma once

#include <functional>
#include <optional>

#include "base/clock.h"
#include "base/file.h"
#include "base/sync.h"

namespace isr {

/// The clock by which a directory's file system dates its files: a file server's, whatever this host's clock says.
///
/// Threads: any.
class StoreClock {
 public:
  /// Touches nothing before now().
  explicit StoreClock(fs::path directory, std::function<WallTime()> host_clock = wall_now);

  /// While nothing can be written the host's clock has to do. Waits for the disk once in ten minutes.
  WallTime now();

 private:
  struct Measured {
    std::chrono::seconds ahead{0};           ///< of the host's clock
    std::chrono::milliseconds boot_time{0};  ///< when it was measured
    WallTime host_time;
  };
  std::optional<Measured> measure() const;  ///< nullopt: nothing can be written
  bool is_current(const Measured& measured, WallTime host_now) const;

  fs::path directory_;
  std::function<WallTime()> host_clock_;
  Sync<std::optional<Measured>> measured_;
};

}  // namespace isr
