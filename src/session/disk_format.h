#pragma once

#include <string>

#include "base/file.h"

namespace isr {

/// "raw", "qcow2", "vmdk", "vdi", "vhdx" by the file's first bytes; what is not recognised is raw.
/// Error{kUnsupported} with the command that makes a disk of it: a compressed file, an archive, a disk format that
/// is not read, a VMDK descriptor, which names other files. As a raw disk each would be the wrong bytes.
std::string detect_disk_format(int fd, const fs::path& file);

}  // namespace isr
