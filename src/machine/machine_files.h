#pragma once

#include "fusefs/mount.h"
#include "vm/command_line.h"

/// The names of a session's images as files of a mount, and the names that other users of this host can see.
namespace isr {

/// The name of guest memory in the mount.
inline constexpr const char* kMemoryFileName = "memory.raw";

/// The path of a disk in the mount: DIRECTORY/NAME.raw.
std::filesystem::path disk_file(const std::filesystem::path& directory, const Image& disk);
std::vector<MountedFile> mounted_disks(const std::vector<std::shared_ptr<Image>>& disks);
MountedFile mounted_memory(std::shared_ptr<Image> memory, std::shared_ptr<Endurance> endurance);

/// The files of a mount for a VM. Every user of this host can see the arguments of a process, so the VM is named by a
/// part of the parcel's id, not by the parcel's name.
VmFiles vm_files(const std::string& parcel_id, const std::vector<std::shared_ptr<Image>>& disks,
                 const std::filesystem::path& mount);
/// The source of a mount. It also has only a part of the parcel's id, because every user can read /proc/mounts.
std::string mount_source(const std::string& parcel_id);

/// Waits until the kernel has written its dirty pages of a file that is mapped shared to the mount. Throws the file
/// system's error.
void write_back(const std::filesystem::path& file);

}  // namespace isr
