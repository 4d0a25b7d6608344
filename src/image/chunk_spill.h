#pragma once

#include <memory>

#include "image/chunk_reader.h"

namespace isr {

/// A file for decoded chunks that do not fit into memory. It has no name and is encrypted under a key that only this
/// process has (encrypted_scratch_file.h). To read 4 KiB of a cached object, isr must decrypt, decompress and hash 128
/// KiB; from this file it decrypts 4 KiB. The least recently used chunks are dropped first.
///
/// Errors:  none: chunks that cannot be written or read count as absent.
/// Threads: any.
class ChunkSpill {
 public:
  virtual ~ChunkSpill() = default;
  /// Fills `out` with the chunk's bytes from `within` on. Returns false when the chunk is not here.
  virtual bool read(const ChunkRef& ref, std::size_t within, MutableBytes out) = 0;
  virtual bool contains(const ChunkRef& ref) = 0;
  virtual void put(const ChunkRef& ref, const ChunkData& data) = 0;
  /// Forgets all chunks for good, to free disk space. Returns the number of bytes freed.
  virtual std::uint64_t give_up() = 0;
};
/// Null when no such file can be made in the directory. The reason is logged at level info, because the cache on the
/// same disk warns already.
std::unique_ptr<ChunkSpill> make_chunk_spill(const SpillOptions& options);

}  // namespace isr
