#pragma once

#include <memory>
#include <string>

#include "base/file.h"

namespace isr {

/// A disk image file of somebody else, to read from.
class DiskSource {
 public:
  virtual ~DiskSource() = default;
  virtual std::uint64_t size() const = 0;
  /// Reads exactly out.size() bytes; zeros beyond the end.
  virtual void read(std::uint64_t offset, MutableBytes out) = 0;
  /// The first byte at or after offset that may not be zero; size() when there is none.
  virtual std::uint64_t next_data(std::uint64_t offset) = 0;
};

/// "raw", "qcow2", "vmdk", "vdi", "vhdx" by the file's first bytes. Error{kUnsupported}
/// for a VMDK descriptor, which names other files.
std::string detect_disk_format(const fs::path& file);
/// format: one of the above, or "" to detect. A file of another format is read
/// through qemu-storage-daemon, which never probes and follows no backing file.
/// Error{kUsage}: not a regular file, empty, larger than 16 TiB; {kUnsupported}:
/// a backing file, several extents, encryption, an unknown format, no QEMU.
std::unique_ptr<DiskSource> open_disk_source(const fs::path& file, const std::string& format);

}  // namespace isr
