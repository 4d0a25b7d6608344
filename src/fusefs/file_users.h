#pragma once

#include <sys/types.h>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace isr {

/// A process that has a file open or mapped, or a loop device that uses the file.
struct FileUser {
  std::string who;      ///< "dd (process 4711)", "/dev/loop0, which is mounted on /mnt"
  std::string way_out;  ///< the command that makes it let go of the file
};

/// Lists the processes that use files below a directory (absolute), except this process and `but_for`. Processes that
/// this user may not see, such as another user's, are not listed. Makes no request to the file system that is mounted
/// there. A process that has a file of another isr mount open (such as another parcel's QEMU) is found by its
/// descriptors only, because reading its mappings may wait for one of its page faults, which may wait for a network
/// that is gone.
std::vector<FileUser> find_file_users(const std::filesystem::path& directory, std::span<const pid_t> but_for);

}  // namespace isr
