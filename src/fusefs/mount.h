#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/sync.h"
#include "image/image.h"

namespace isr {

/// A read-only file beside the images in every mount. It has the text that stats_json returned when it was opened.
inline constexpr std::string_view kStatsName = "stats.json";

/// The state of a file whose requests never fail: guest memory. An error for a read would kill QEMU. An error for a
/// write-back of a shared mapping would bring old bytes back. The mount repeats a request until it works; the
/// caller waits.
struct Endurance {
  /// The owner of the mount sets this when the file is not needed any more. Waiting requests then fail within seconds.
  std::atomic<bool> given_up{false};
  struct Hindrance {
    std::string why;  ///< the error of a change that is waiting; empty when none waits
    unsigned waiting = 0;
  };
  Sync<Hindrance> hindrance;
};

/// A file in the mount: NAME.raw, with a fixed inode number (2 + position).
struct MountedFile {
  std::string name;  ///< with ".raw"
  std::shared_ptr<Image> image;
  std::shared_ptr<Endurance> endurance{};  ///< null: a failure is answered with an errno
};

struct MountOptions {
  unsigned threads = 16;            ///< kept threads; more are made while all of them wait for the network
  bool immutable = false;           ///< for versions: every file is read-only, whatever its image allows
  std::string source_name = "isr";  ///< shown in /proc/mounts
};

/// One FUSE mount: a flat directory of image files and a read-only stats.json. Unprivileged, nosuid, nodev,
/// default_permissions, no allow_other.
///
/// Errors: make_mount() throws kUsage (mount point missing, not a directory, not empty), kIo, and kDaemon naming the
///         cause (/dev/fuse absent, fusermount3 absent, no_new_privs). It first unmounts a dead FUSE mount on the
///         directory.
/// Threads: start() serves on threads of its own; the other functions may be called from any.
class Mount {
 public:
  virtual ~Mount() = default;  ///< unmounts (lazily when busy) and joins
  /// Returns once the kernel has the file system.
  virtual void start() = 0;
  /// True once the file system is gone, because another process unmounted it or the connection was aborted.
  virtual bool ended() const = 0;
  /// Blocks until ended() or stop.
  virtual void wait(std::stop_token stop) = 0;
  /// The number of image files that are open for reading or writing, or mapped. A closed file counts for a few moments
  /// more.
  virtual std::uint64_t open_files() const = 0;
  /// From now on opening a file for writing fails with EROFS. Once open_files() is 0, no process can write. A process
  /// that already has a file open can go on writing.
  virtual void refuse_writers() = 0;
  virtual void admit_writers() = 0;  ///< reverses refuse_writers()
};
std::unique_ptr<Mount> make_mount(const std::filesystem::path& directory, std::vector<MountedFile> files,
                                  std::function<std::string()> stats_json, const MountOptions& options);

/// Unmounts a mount of isr, dead or alive. Returns false when there is none.
bool unmount(const std::filesystem::path& directory);
/// True for a FUSE mount whose daemon is gone (ENOTCONN).
bool is_dead_mount(const std::filesystem::path& directory);

}  // namespace isr
