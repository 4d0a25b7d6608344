#pragma once

#include <sys/types.h>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace isr {

/// Somebody who has a file open or mapped, or a loop device that stands on it.
struct FileUser {
  std::string who;      ///< "dd (process 4711)", "/dev/loop0, which is mounted on /mnt"
  std::string way_out;  ///< the command that lets go of it
};

/// Lists the processes that use files below a directory (absolute), other than this one and `but_for`. Without those
/// that this user may not see, e.g. another user's. Asks nothing of the file system that is mounted there. A process
/// that has a file of another isr mount open, as another parcel's QEMU has, is found by its descriptors only: reading
/// its mappings can wait for a page fault of its own, and that one for a network that is dead.
std::vector<FileUser> find_file_users(const std::filesystem::path& directory, std::span<const pid_t> but_for);

}  // namespace isr
