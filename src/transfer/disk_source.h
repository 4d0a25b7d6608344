#pragma once

#include <memory>
#include <string>

#include "base/file.h"

namespace isr {

/// A disk image file of somebody else, to read from.
///
/// Units:   bytes of the disk.
/// Errors:  Error{kIo} for what cannot be read: it never becomes zeros, but for salvage.
/// Threads: all calls, from many threads.
class DiskSource {
 public:
  virtual ~DiskSource() = default;
  virtual std::uint64_t size() const = 0;
  /// Reads exactly out.size() bytes; zeros beyond the end.
  virtual void read(std::uint64_t offset, MutableBytes out) = 0;
  /// The first byte at or after offset that may not be zero; size() when there is none.
  virtual std::uint64_t next_data(std::uint64_t offset) = 0;
  /// To be called when all has been read: Error{kIo} when the file was written to or replaced meanwhile.
  virtual void check_unchanged() const = 0;
  /// With salvage: so many bytes at least the file lacks, and so many of the disk could not be read so far.
  virtual std::uint64_t missing_bytes() const = 0;
  virtual std::uint64_t unreadable_bytes() const = 0;
};

struct DiskSourceOptions {
  std::string format;    ///< as detect_disk_format() names them; "" to detect
  bool salvage = false;  ///< take what a cut or damaged file has, and zeros for the rest
};

/// A file that is not raw is read through qemu-storage-daemon, which never probes and follows no backing file.
/// Error{kUsage}: not a regular file, empty; {kUnsupported}: a backing file, several extents, encryption, an
/// unknown format, larger than 16 TiB, no QEMU; a VHDX with a log that
/// was not replayed; unless salvage is asked for: cut off (with the number of bytes), damaged, or marked as dirty or
/// corrupt.
std::unique_ptr<DiskSource> open_disk_source(const fs::path& file, const DiskSourceOptions& options = {});

}  // namespace isr
