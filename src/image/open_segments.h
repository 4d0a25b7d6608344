#pragma once

#include <functional>
#include <map>
#include <memory>

#include "base/file.h"
#include "base/sync.h"

namespace isr {

/// Holding this keeps the segment's descriptor open.
using SegmentFile = std::shared_ptr<const UniqueFd>;

/// Opens the files of a journal when they are needed, by their segment's index. A file that somebody holds stays open,
/// and so do the files that were used last. All others are closed, so that a journal may have more segments than a
/// process may have open files.
///
/// Errors:  Error{kIo}; the same call may succeed later.
/// Threads: any.
class OpenSegments {
 public:
  explicit OpenSegments(fs::path directory) : directory_(std::move(directory)) {}

  static std::string file_name(std::uint64_t index);

  SegmentFile get(std::uint64_t index);
  /// Makes a new, empty file. Empties an existing file of that index, which an earlier attempt to begin the segment
  /// left.
  SegmentFile create(std::uint64_t index);
  /// Replaces a file of which the disk may have lost parts. The data that `fill` writes is durable before the new file
  /// takes its place, and its name is durable on return. Holders of the old file may go on reading it. After an Error
  /// either file may be there.
  SegmentFile replace(std::uint64_t index, const std::function<void(int fd)>& fill);
  /// True for a file left by a replace() that failed or was killed.
  static bool is_leftover(const fs::path& file);
  /// Removes a file that is no longer needed. Does nothing when it is gone.
  void remove(std::uint64_t index);
  /// On return every name is durable.
  void sync_names() const { directory_.sync(); }

 private:
  struct Entry {
    SegmentFile file;
    std::uint64_t used = 0;
  };
  struct Files {
    std::map<std::uint64_t, Entry> by_index;
    std::uint64_t tick = 0;
  };
  SegmentFile opened(std::uint64_t index, int flags);
  /// Returns how many files it closed.
  static std::size_t close_idle(Files& files, std::size_t most);

  Directory directory_;
  Sync<Files> files_;
};

}  // namespace isr
