#pragma once

#include <chrono>

#include "base/file.h"

namespace isr {

/// The purpose of a pack store's directory. A cache may be emptied at any time; settled objects are the only copy. A
/// directory of one purpose is never opened for the other.
enum class PackUse { kCache, kSettled };

/// Makes the directory a pack store, or checks that it is one: its `format` file, `packs`, and CACHEDIR.TAG for a
/// cache. A cache of which only a part was deleted, while a process wrote in it, is accepted and completed.
/// Error{kUnsupported} for a newer version, the other purpose, or a directory with other files in it; the directory is
/// then not changed. Error{kDenied} for a symlink.
void prepare_pack_directory(const fs::path& directory, PackUse use);

/// Identifies the directory at a path, to notice that the path leads elsewhere now.
struct DirectoryIdentity {
  std::uint64_t device = 0, inode = 0;
  friend bool operator==(const DirectoryIdentity&, const DirectoryIdentity&) = default;
};
/// nullopt when nothing is there. Does not follow a symlink.
std::optional<DirectoryIdentity> identify_directory(const fs::path& directory);

/// The lock that a process holds while it creates or repairs the index.
class StoreLock {
 public:
  /// nullopt when another process still has the lock after `wait`, because its repair takes long or it was stopped.
  static std::optional<StoreLock> acquire(const fs::path& directory, std::chrono::milliseconds wait);

 private:
  explicit StoreLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace isr
