#pragma once

#include <chrono>

#include "base/file.h"

namespace isr {

/// What a pack store's directory is for. A cache may be emptied at any time; what
/// is settled is the only copy. Neither is ever opened as the other.
enum class PackUse { kCache, kSettled };

/// Makes the directory a pack store, or checks that it is one: its `format` file,
/// `packs`, and CACHEDIR.TAG for a cache. Error{kUnsupported} for a newer version,
/// the other use, or a directory with something else in it; then nothing in it is
/// changed. A cache that was deleted only in part, while a process wrote in it, is accepted and made whole.
/// Error{kDenied} for a symlink.
void prepare_pack_directory(const fs::path& directory, PackUse use);

/// Which directory a path led to, to notice that it leads elsewhere now.
struct DirectoryIdentity {
  std::uint64_t device = 0, inode = 0;
  friend bool operator==(const DirectoryIdentity&, const DirectoryIdentity&) = default;
};
/// nullopt when nothing is there. A symlink is itself, not its target.
std::optional<DirectoryIdentity> identify_directory(const fs::path& directory);

/// The lock that whoever creates or repairs the index holds.
class StoreLock {
 public:
  /// nullopt when another one still has it after `wait`: a repair takes long, or its process was stopped.
  static std::optional<StoreLock> acquire(const fs::path& directory, std::chrono::milliseconds wait);

 private:
  explicit StoreLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace isr
