#pragma once

#include <memory>

#include "image/chunk_reader.h"

namespace isr {

/// Decoded chunks for which memory has no room: a file without a name, encrypted
/// under a key of this process alone (encrypted_scratch_file.h).
/// Reading 4 KiB of a cached object takes decrypting, decompressing and hashing
/// 128 KiB; here it takes 4 KiB. The least recently used chunks go first.
///
/// Errors:  none: what cannot be written or read is not there.
/// Threads: any.
class ChunkSpill {
 public:
  virtual ~ChunkSpill() = default;
  /// Fills `out` with the chunk's bytes from `within` on. False: not here.
  virtual bool read(const ChunkRef& ref, std::size_t within, MutableBytes out) = 0;
  virtual bool contains(const ChunkRef& ref) = 0;
  virtual void put(const ChunkRef& ref, const ChunkData& data) = 0;
  /// The disk is needed for something else: forgets all, for good. Returns the bytes given back.
  virtual std::uint64_t give_up() = 0;
};
/// Null when no such file can be made in the directory; the reason is logged (info: the cache, on the same
/// disk, warns).
std::unique_ptr<ChunkSpill> make_chunk_spill(const SpillOptions& options);

}  // namespace isr
