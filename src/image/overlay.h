#pragma once

#include <memory>
#include <vector>

#include "chunkstore/object.h"

namespace isr {

/// A run of bytes of an image.
struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t end() const noexcept { return offset + length; }
  friend bool operator==(const Extent&, const Extent&) = default;
};

/// The changes to an image since its base: bytes that lie over the tree, and chunks whose reference differs from the
/// tree's.
///
/// Units:   bytes; write() and zero() take multiples of granularity().
/// Errors:  kIo (treat no byte of the call as written), kCorrupt when data that was kept here no longer verifies.
/// Threads: any. A read that runs beside a write of the same bytes sees, for each call of write() and each chunk,
///          either all or none of the overlapping bytes.
class Overlay {
 public:
  virtual ~Overlay() = default;
  virtual std::size_t granularity() const = 0;
  /// With a journal, returns once the bytes survive a crash of this process. A scratch layer returns at once.
  virtual void write(std::uint64_t offset, ByteView data) = 0;
  virtual void zero(std::uint64_t offset, std::uint64_t length) = 0;
  /// Fills the bytes that are here into out. Returns the other runs, which must come from below.
  virtual std::vector<Extent> read(std::uint64_t offset, MutableBytes out) = 0;
  /// The reference that replaces the tree's for a chunk, if any.
  virtual std::optional<ChunkRef> replaced(std::uint64_t chunk) = 0;
  /// With a journal, returns once everything written before survives a power cut.
  virtual void flush() = 0;
};

}  // namespace isr
