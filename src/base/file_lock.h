#pragma once

#include <optional>

#include "base/file.h"

namespace isr {

/// An exclusive lock of a file (an open file description lock), held until destruction.
class FileLock {
 public:
  /// nullopt when another FileLock holds it, in this process or another.
  static std::optional<FileLock> try_acquire(const fs::path& path);
  /// True when a FileLock holds the file, in this process or another. Takes no lock.
  static bool is_held(const fs::path& path);

 private:
  explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace isr
