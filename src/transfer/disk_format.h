#pragma once

#include <string>

#include "base/file.h"

namespace isr {

/// "raw", "qcow2", "vmdk", "vdi" or "vhdx", detected by the file's bytes. A file is raw when it begins with a partition
/// table, a boot sector, a known file system or a sector of zeros, or when its name ends in ".raw".
/// Error{kUnsupported}, with a command that helps, for any other file, because as a raw disk it would have the wrong
/// bytes: a compressed file, an archive, a disk format that isr does not read, a VMDK descriptor that names other
/// files, an image of a CD, and an unknown file.
std::string detect_disk_format(int fd, const fs::path& file);

}  // namespace isr
