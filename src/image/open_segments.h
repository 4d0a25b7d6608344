#pragma once

#include <functional>
#include <map>
#include <memory>

#include "base/file.h"
#include "base/sync.h"

namespace isr {

/// Whoever holds one keeps the segment's descriptor open.
using SegmentFile = std::shared_ptr<const UniqueFd>;

/// The files of a journal, by their segment's index. They are opened when they are needed; of those that
/// nobody holds only the ones used last stay open, so that a journal may have more segments than a process files.
///
/// Errors:  Error{kIo}; after it the same call may go well.
/// Threads: any.
class OpenSegments {
 public:
  explicit OpenSegments(fs::path directory) : directory_(std::move(directory)) {}

  static std::string file_name(std::uint64_t index);

  SegmentFile get(std::uint64_t index);
  /// A new, empty file. One of that index that an attempt to begin the segment left behind is emptied.
  SegmentFile create(std::uint64_t index);
  /// Puts a new file in the place of one that the disk may have lost parts of: what `fill` writes to it is durable
  /// when it takes the place, and its name on return. Who holds the old file may go on reading it. After an Error
  /// either may be there.
  SegmentFile replace(std::uint64_t index, const std::function<void(int fd)>& fill);
  /// A file that a replace() left because it failed or was killed.
  static bool is_leftover(const fs::path& file);
  /// Nobody may need it any more. Nothing when it is gone.
  void remove(std::uint64_t index);
  /// Every name is durable on return.
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
  /// Returns how many it closed.
  static std::size_t close_idle(Files& files, std::size_t most);

  Directory directory_;
  Sync<Files> files_;
};

}  // namespace isr
