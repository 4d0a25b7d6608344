#pragma once

#include "fusefs/mount.h"
#include "vm/command_line.h"

/// The names under which a session's images are files of a mount, and the names that other users of this host see.
namespace isr {

/// The name of guest memory in the mount.
inline constexpr const char* kMemoryFileName = "memory.raw";

/// The path of a disk in the mount: DIRECTORY/NAME.raw.
std::filesystem::path disk_file(const std::filesystem::path& directory, const Image& disk);
std::vector<MountedFile> mounted_disks(const std::vector<std::shared_ptr<Image>>& disks);
MountedFile mounted_memory(std::shared_ptr<Image> memory, std::shared_ptr<Endurance> endurance);

/// The files of a mount that a VM gets. Every user can see how a process was started, so the VM's name is a part of the
/// parcel's id.
VmFiles vm_files(const std::string& parcel_id, const std::vector<std::shared_ptr<Image>>& disks,
                 const std::filesystem::path& mount);
/// The source of a mount, a part of the parcel's id too: every user can read /proc/mounts.
std::string mount_source(const std::string& parcel_id);

/// Waits until the kernel has written to the mount what it still holds of a file that is mapped shared.
/// Error of the file system.
void write_back(const std::filesystem::path& file);

}  // namespace isr
