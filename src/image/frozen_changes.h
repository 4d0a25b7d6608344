#pragma once

#include <optional>
#include <set>
#include <vector>

#include "image/overlay.h"
#include "image/tree.h"

namespace isr {

/// Chunks by number, and runs of chunks that became all zero; the two do not overlap.
struct DirtyChunks {
  std::set<std::uint64_t> chunks;
  std::vector<ChunkRun> zeros;
};

/// A chunk of an image, and the object that holds it.
struct SealedChunk {
  std::uint64_t chunk = 0;
  ChunkRef ref;
};

/// The changes of an overlay's frozen layer over the tree. The frozen layer does not change while new writes go to a
/// fresh layer above it.
///
/// Errors:  kBug when nothing is frozen; as Overlay.
/// Threads: any.
class FrozenChanges {
 public:
  virtual ~FrozenChanges() = default;
  /// Chunks that become all zero are given as runs, because a guest may discard a whole disk.
  virtual DirtyChunks frozen_chunks() const = 0;
  /// As Overlay::read() and replaced(), for the frozen layer alone.
  virtual std::vector<Extent> read_frozen(std::uint64_t offset, MutableBytes out) = 0;
  virtual std::optional<ChunkRef> frozen_replaced(std::uint64_t chunk) const = 0;
  /// True when the layer has bytes over the chunk, so that the chunk must be sealed again.
  virtual bool frozen_has_bytes(std::uint64_t chunk) const = 0;
};

}  // namespace isr
