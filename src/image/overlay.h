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

/// What was written to an image since its base: bytes that lie over the tree,
/// and chunks whose reference differs from the tree's.
///
/// Units:   bytes; write() and zero() take multiples of granularity().
/// Errors:  kIo (nothing of the call may be assumed written), kCorrupt when what
///          was kept here no longer verifies.
/// Threads: any; a read that runs beside a write of the same bytes sees, per
///          call of write(), all or nothing of what it overlaps in one chunk.
class Overlay {
 public:
  virtual ~Overlay() = default;
  virtual std::size_t granularity() const = 0;
  /// Returns once the bytes survive a crash of this process (a journal), or at
  /// once (a scratch layer).
  virtual void write(std::uint64_t offset, ByteView data) = 0;
  virtual void zero(std::uint64_t offset, std::uint64_t length) = 0;
  /// Fills what lies here into out and returns the rest: runs that must come from below.
  virtual std::vector<Extent> read(std::uint64_t offset, MutableBytes out) = 0;
  /// The reference that replaces the tree's for a chunk, if any.
  virtual std::optional<ChunkRef> replaced(std::uint64_t chunk) = 0;
  /// Returns once everything written before survives a power cut (a journal).
  virtual void flush() = 0;
};

}  // namespace isr
