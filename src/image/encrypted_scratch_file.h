#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "base/crypto.h"
#include "base/file.h"
#include "image/overlay.h"

namespace isr {

inline constexpr std::size_t kScratchBlock = 4096;
inline constexpr std::size_t kScratchBlocksPerChunk = kChunkSize / kScratchBlock;

/// The data that a scratch file needs to read one block, besides its encrypted bytes.
struct ScratchBlock {
  enum class State : std::uint8_t { kAbsent, kZero, kBytes };
  State state = State::kAbsent;
  std::array<std::uint8_t, kTagSize> tag{};
  Nonce nonce;
};

/// A random key that never leaves this process. Each block is sealed under a nonce from one counter, so no (key, nonce)
/// pair is used twice.
/// Threads: any.
class ScratchCipher {
 public:
  ScratchCipher();
  struct Sealed {
    Bytes cipher;
    std::vector<ScratchBlock> blocks;
  };
  /// data must be whole blocks. The result belongs to the calling thread and is valid until its next call.
  const Sealed& seal(ByteView data);
  /// Opens in place. Error{kCorrupt} naming the offset.
  void open(const ScratchBlock& block, MutableBytes bytes, std::uint64_t offset) const;

 private:
  SecretKey key_;
  std::atomic<std::uint64_t> counter_{0};
};

/// A file without a name, encrypted block by block. It is lost when the process ends. Nonces and tags stay in memory,
/// 28 bytes a block.
///
/// Units:   bytes; offsets and lengths are multiples of kScratchBlock, and no call crosses from one chunk to the next.
/// Errors:  kIo (no space); kCorrupt for a block that does not verify.
/// Threads: the caller serialises calls for the same chunk; other calls may run at once.
class EncryptedScratchFile {
 public:
  /// Only files that share a cipher can merge().
  EncryptedScratchFile(const fs::path& directory, std::size_t chunk_count, std::shared_ptr<ScratchCipher> cipher);

  void write(std::uint64_t offset, const ScratchCipher::Sealed& sealed);
  /// Makes the range zeros and frees its space.
  void zero(std::uint64_t offset, std::uint64_t length);
  /// Fills a block's bytes into out. Returns false when the block was never written.
  bool read_block(std::uint64_t offset, MutableBytes out) const;
  bool has_chunk(std::uint64_t chunk) const { return chunks_.at(chunk) != nullptr; }
  /// Moves the blocks of a chunk that `over` has into this file, replacing its own.
  void merge(EncryptedScratchFile& over, std::uint64_t chunk);

 private:
  using ChunkBlocks = std::array<ScratchBlock, kScratchBlocksPerChunk>;
  ChunkBlocks& ensure(std::uint64_t chunk);

  fs::path name_for_errors_;
  std::shared_ptr<ScratchCipher> cipher_;
  UniqueFd fd_;
  std::vector<std::unique_ptr<ChunkBlocks>> chunks_;
};

/// Reads any range block by block. read_block gets a block's offset and the buffer to fill, and returns false when the
/// block is absent. Returns the absent runs.
std::vector<Extent> read_by_blocks(std::uint64_t offset, MutableBytes out,
                                   const std::function<bool(std::uint64_t, MutableBytes)>& read_block);

}  // namespace isr
