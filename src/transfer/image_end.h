#pragma once

#include <string>

#include "base/file.h"

namespace isr {

/// The length that a disk image file must have at least, by its own tables: the end of the last piece of the
/// disk, or of a table that leads to one. QEMU reads zeros beyond the end of a file, so a file that is shorter
/// would become a disk with zeros in it. A table that is itself beyond the end is not followed: the file may then need
/// still more.
///
/// format: "qcow2", "vmdk", "vdi" or "vhdx". A backing file, a data file and further extents are not looked at.
/// Hostile input: Error{kCorrupt} for what is not an image of that format, or one that no disk of 16 TiB needs.
std::uint64_t needed_length(int fd, const fs::path& file, const std::string& format);

}  // namespace isr
