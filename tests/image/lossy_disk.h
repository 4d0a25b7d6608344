#pragma once

#include <functional>

#include "base/file.h"

namespace isr::test {

/// A disk that forgets, under the files of one directory, as Linux, ext4 and a real one do: what was written is
/// in the page cache, where every reader sees it. A sync brings it to the disk. A sync that fails marks the pages
/// clean, fails only once, and the disk never gets these pages of that file, even if they are written again
/// (their blocks stay "unwritten" in the inode). Names are never lost.
///
/// Works by taking the place of pwrite(), fdatasync() and fsync(); one at a time in a process.
class LossyDisk {
 public:
  explicit LossyDisk(const fs::path& directory);
  ~LossyDisk();
  LossyDisk(const LossyDisk&) = delete;
  LossyDisk& operator=(const LossyDisk&) = delete;

  /// The next `count` syncs fail.
  void fail_syncs(int count = 1);
  /// Calls it once, at the end of the next sync, for which it comes too late.
  void during_next_sync(std::function<void()> call);
  /// Every file becomes what the disk has of it. Nobody may have one of them open.
  void cut_power();
};

}  // namespace isr::test
