#pragma once

#include <memory>
#include <string>

#include "base/file.h"

namespace isr {

/// A disk image file to import.
///
/// Units:   bytes of the disk.
/// Errors:  Error{kIo} for unreadable parts; they never become zeros, except with salvage.
/// Threads: all calls, from many threads.
class DiskSource {
 public:
  virtual ~DiskSource() = default;
  virtual std::uint64_t size() const = 0;
  /// Reads exactly out.size() bytes; zeros beyond the end.
  virtual void read(std::uint64_t offset, MutableBytes out) = 0;
  /// The first byte at or after offset that may be nonzero; size() when there is none.
  virtual std::uint64_t next_data(std::uint64_t offset) = 0;
  /// Call when everything was read: Error{kIo} when the file was written to or replaced meanwhile.
  virtual void check_unchanged() const = 0;
  /// With salvage: the least number of bytes that the file lacks, and the number of the disk's bytes that could not be
  /// read so far.
  virtual std::uint64_t missing_bytes() const = 0;
  virtual std::uint64_t unreadable_bytes() const = 0;
};

struct DiskSourceOptions {
  std::string format;    ///< a name that detect_disk_format() gives; "" to detect
  bool salvage = false;  ///< use the readable parts of a cut or damaged file, and zeros for the rest
};

/// Opens a disk image. A file that is not raw is read through qemu-storage-daemon, which never probes and follows no
/// backing file.
/// Error{kUsage}: not a regular file, or empty. {kUnsupported}: a backing file, several extents, encryption, an unknown
/// format, larger than 16 TiB, no QEMU, a VHDX whose log was not replayed; and, unless salvage is set, a file that is
/// cut off (with the number of bytes), damaged, or marked as dirty or corrupt.
std::unique_ptr<DiskSource> open_disk_source(const fs::path& file, const DiskSourceOptions& options = {});

}  // namespace isr
