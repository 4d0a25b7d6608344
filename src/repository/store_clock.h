#pragma once

#include <functional>
#include <optional>

#include "base/clock.h"
#include "base/file.h"
#include "base/sync.h"

namespace isr {

/// The clock with which a directory's file system dates its files. On a network file system it is the file server's,
/// which may differ from this host's clock.
///
/// Threads: any.
class StoreClock {
 public:
  /// Does not use the disk before now().
  explicit StoreClock(fs::path directory, std::function<WallTime()> host_clock = wall_now);

  /// Returns the host's clock while nothing can be written. Waits for the disk once in ten minutes.
  WallTime now();

 private:
  struct Measured {
    std::chrono::seconds ahead{0};           ///< relative to the host's clock
    std::chrono::milliseconds boot_time{0};  ///< when it was measured
    WallTime host_time;
  };
  std::optional<Measured> measure() const;  ///< nullopt when nothing can be written
  bool is_current(const Measured& measured, WallTime host_now) const;

  fs::path directory_;
  std::function<WallTime()> host_clock_;
  Sync<std::optional<Measured>> measured_;
};

}  // namespace isr
