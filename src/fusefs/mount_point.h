#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/handle.h"

/// The kernel's side of mounts: finds, makes and ends FUSE mounts. As root with mount(2), otherwise with fusermount3.
namespace isr {

/// One line of /proc/self/mountinfo.
struct KernelMount {
  std::string device;  ///< "0:57"; unique while the file system is mounted
  std::string type;    ///< "fuse.isr"
  std::string source;
};

/// An absolute path with symlinks resolved. Makes no request to the file system that is mounted there.
std::filesystem::path absolute_mount_point(const std::filesystem::path& directory);
/// The topmost mount on exactly this directory (absolute); nullopt when it is not a mount point.
std::optional<KernelMount> mount_at(const std::filesystem::path& directory);

/// The type and the source of a mount.
struct MountedSource {
  std::string type;  ///< "fuse.isr"
  std::string source;
  std::filesystem::path point;
};
std::vector<MountedSource> all_mounts();
inline constexpr std::string_view kMountType = "fuse.isr";

/// Throws the errors of make_mount() unless the directory can be a mount point.
void require_mountable(const std::filesystem::path& directory);

/// The facts that decide whether this process can mount.
struct FuseAccess {
  std::filesystem::path device = "/dev/fuse";
  bool root = false;
  bool no_new_privs = false;
  std::optional<std::filesystem::path> fusermount;  ///< where it was found
};
FuseAccess probe_fuse_access();
/// The reason why this process cannot mount, as text for the user; nullopt when it can.
std::optional<std::string> why_no_fuse(const FuseAccess& access);

struct AttachOptions {
  std::string source_name;
  bool read_only = false;
};
/// Mounts. The kernel's requests are read from the returned descriptor. Error{kDaemon}.
UniqueFd attach(const std::filesystem::path& directory, const AttachOptions& options);

enum class Detached { kClean, kLazily };
/// Unmounts. Lazily when a file is open there, or when another process unmounted first. Error{kIo}.
Detached detach(const std::filesystem::path& directory);

}  // namespace isr
