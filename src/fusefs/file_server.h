#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/sync.h"
#include "fusefs/mount.h"

struct fuse_conn_info;
struct fuse_lowlevel_ops;
struct stat;

namespace isr {

/// The contents of a mount: image files and stats.json in one flat directory. The inode numbers are fixed: 1 is the
/// directory, 2.. are the files in order, then stats.json. Image handles carry no state, so another process could take
/// over the kernel's open files.
///
/// Threads: any; libfuse calls the operations on its own threads.
class FileServer {
 public:
  FileServer(std::vector<MountedFile> files, std::function<std::string()> stats_json, const MountOptions& options);

  /// The operations for fuse_session_new(). Their userdata is a FileServer.
  static fuse_lowlevel_ops operations();

  bool writable() const;  ///< whether any file is writable
  /// The limit on asynchronous requests (read-ahead, direct I/O) that the kernel sends at once. Direct writes count,
  /// too, so the limit is above the number of reads that may wait: QEMU's threads (kMostDiskThreads in
  /// vm/command_line.cpp) and some for other readers. For an unprivileged mount the kernel may allow less.
  static constexpr unsigned kBackgroundRequests = 1536;
  /// Image files that are open; stats.json does not count.
  std::uint64_t open_files() const { return opening_.lock()->open; }
  void refuse_writers() { opening_.lock()->admits_writers = false; }
  void admit_writers() { opening_.lock()->admits_writers = true; }
  /// The inode number of a file; 0 when there is none.
  std::uint64_t find(const std::string& name) const;
  /// Requests that are being repeated stop waiting and answer EIO.
  void stop();
  /// Returns true once the kernel's INIT was seen, false after the time-out.
  bool wait_initialised(std::chrono::milliseconds timeout);
  void fail_initialising();

 private:
  friend struct Operations;
  using Snapshot = std::shared_ptr<const std::string>;

  const MountedFile* image_file(std::uint64_t inode) const;
  bool is_stats(std::uint64_t inode) const { return inode == files_.size() + 2; }
  bool writable(const MountedFile& file) const { return !immutable_ && file.image->writable(); }
  bool fill_attributes(std::uint64_t inode, struct stat& out);
  std::string label(std::uint64_t inode) const;  ///< for logs
  void negotiate(fuse_conn_info& connection);

  /// Reads from a file: once, or repeatedly until it works. `given_up` tells whether the caller was killed. Pass
  /// functions that allocate nothing when they are copied (std::cref), because such an allocation would not be
  /// repeated.
  void read(const MountedFile& file, std::uint64_t offset, const std::function<bool()>& given_up,
            const std::function<void()>& body);
  void change(const MountedFile& file, const std::function<bool()>& given_up, const std::function<void()>& body);
  void endure(const Endurance& endurance, const std::function<bool()>& given_up, const std::function<void()>& body,
              const std::function<void(const Error&)>& on_failure);
  /// Counts an open image file; flags are those of open(2). Returns false and counts nothing when refuse_writers()
  /// forbids it.
  bool begin_open(int flags);
  void end_open() { --opening_.lock()->open; }
  std::uint64_t open_stats();
  Snapshot stats_of(std::uint64_t handle);
  void close_stats(std::uint64_t handle);

  /// One lock for both members: every admitted writer is counted, and none is admitted after refuse_writers().
  struct Opening {
    std::uint64_t open = 0;
    bool admits_writers = true;
  };
  enum class Phase { kNew, kInitialised, kFailed, kStopping };
  struct Stats {
    std::uint64_t next_handle = 1;
    std::map<std::uint64_t, Snapshot> open;
    Snapshot newest;  // stat() shows its size while handles are open
  };

  std::vector<MountedFile> files_;
  std::function<std::string()> stats_json_;
  bool immutable_;
  timespec started_{};
  Sync<Opening> opening_;
  Sync<Phase> phase_{Phase::kNew};
  std::condition_variable phase_changed_;
  Sync<Stats> stats_;
};

}  // namespace isr
