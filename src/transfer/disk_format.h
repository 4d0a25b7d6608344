#pragma once

#include <string>

#include "base/file.h"

namespace isr {

/// "raw", "qcow2", "vmdk", "vdi" or "vhdx", by the file's bytes. A file is raw when it begins as disks do: with a
/// partition table, a boot sector, a known file system, or a sector of zeros; and when its name ends in ".raw".
/// Error{kUnsupported} with the command that helps for any other: as a raw disk it would be the wrong bytes. That is a
/// compressed file, an archive, a disk format that isr does not read, a VMDK descriptor, which names other files, an
/// image of a CD, and what is not known at all.
std::string detect_disk_format(int fd, const fs::path& file);

}  // namespace isr
