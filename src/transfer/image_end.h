#pragma once

#include <string>

#include "base/file.h"

namespace isr {

/// The least length of a disk image file, according to its own tables: the end of the last piece of the disk, or of a
/// table that leads to one. QEMU reads zeros beyond the end of a file, so a file that is too short would become a disk
/// with zeros in it. A table that is itself beyond the end is not followed; the file may then need even more.
///
/// format: "qcow2", "vmdk", "vdi" or "vhdx". A backing file, a data file and further extents are not examined. Input is
/// untrusted: Error{kCorrupt} for a file that is not an image of that format, or whose tables need more than a disk of
/// 16 TiB can.
std::uint64_t needed_length(int fd, const fs::path& file, const std::string& format);

}  // namespace isr
