#pragma once

#include "image/patch.h"

namespace isr {

/// Writes one patch: gathers its data in chunks, and seals these as they fill.
///
/// Errors:  as `emit`; kBug for runs out of order.
/// Threads: one at a time. It seals in `threads` threads, but calls `emit` from the caller's.
class PatchWriter {
 public:
  PatchWriter(const Key& domain_secret, unsigned threads, EmitObject emit);

  /// The bytes at `offset` of the patched image; behind all that was added before.
  void add(std::uint64_t offset, ByteView bytes);
  void add_zeros(std::uint64_t offset, std::uint64_t length);
  /// Older patches no longer count in these chunks; in order.
  void clear(const ChunkRun& run);

  bool empty() const noexcept { return table_.runs.empty() && table_.cleared.empty(); }
  /// True when the patch has no room for the changes of one more chunk.
  bool is_full() const noexcept;
  /// Seals the rest and returns the patch, which is an image.
  TreeRoot finish();

 private:
  void put(ByteView bytes);
  void pad();  ///< to the end of a chunk
  void seal_full_chunks();

  SecretKey domain_secret_;
  unsigned threads_;
  EmitObject emit_;
  PatchTable table_;
  Bytes open_;  ///< not sealed yet
  std::vector<ChunkRef> sealed_;
};

}  // namespace isr
