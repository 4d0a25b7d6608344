#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/handle.h"

/// The kernel's side of mounting: which FUSE mounts there are, making and
/// ending one. As root through mount(2), otherwise through fusermount3.
namespace isr {

/// As in /proc/self/mountinfo.
struct KernelMount {
  std::string device;  ///< "0:57": unique while it is mounted
  std::string type;    ///< "fuse.isr"
  std::string source;
};

/// Absolute, symlinks resolved, and never asks the file system that is mounted there.
std::filesystem::path absolute_mount_point(const std::filesystem::path& directory);
/// The topmost mount on exactly this directory (absolute); nullopt when it is no mount point.
std::optional<KernelMount> mount_at(const std::filesystem::path& directory);

/// The type and the source of a mount.
struct MountedSource {
  std::string type;  ///< "fuse.isr"
  std::string source;
  std::filesystem::path point;
};
std::vector<MountedSource> all_mounts();
inline constexpr std::string_view kMountType = "fuse.isr";

/// Throws what make_mount() documents, unless a mount may be made here.
void require_mountable(const std::filesystem::path& directory);

/// The conditions for this process to be able to mount.
struct FuseAccess {
  std::filesystem::path device = "/dev/fuse";
  bool root = false;
  bool no_new_privs = false;
  std::optional<std::filesystem::path> fusermount;  ///< where it was found
};
FuseAccess probe_fuse_access();
/// The cause for a person; nullopt when nothing stands in the way.
std::optional<std::string> why_no_fuse(const FuseAccess& access);

struct AttachOptions {
  std::string source_name;
  bool read_only = false;
};
/// Mounts; the kernel's requests are read from the result. Error{kDaemon}.
UniqueFd attach(const std::filesystem::path& directory, const AttachOptions& options);

enum class Detached { kClean, kLazily };
/// Unmounts; lazily when something is open there, or when somebody else was faster. Error{kIo}.
Detached detach(const std::filesystem::path& directory);

}  // namespace isr
