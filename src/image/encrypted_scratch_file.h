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

/// A random key that never leaves this process. Each block is sealed under a nonce from one counter, so no
/// (key, nonce) pair ever comes twice.
/// Threads: any.
class ScratchCipher {
 public:
  ScratchCipher();
  struct Sealed {
    Bytes cipher;
    std::vector<ScratchBlock> blocks;
  };
  /// data is whole blocks. The result is the calling thread's and is good until its next call.
  const Sealed& seal(ByteView data);
  /// Opens in place. Error{kCorrupt} naming the offset.
  void open(const ScratchBlock& block, MutableBytes bytes, std::uint64_t offset) const;

 private:
  SecretKey key_;
  std::atomic<std::uint64_t> counter_{0};
};

/// A file without a name, encrypted block by block. Nothing of it survives the process; nonces and tags stay in
/// memory, 28 bytes a block.
///
/// Units:   bytes; offsets and lengths are multiples of kScratchBlock, and no call reaches from one chunk to the next.
/// Errors:  kIo (no space); kCorrupt for a block that does not verify.
/// Threads: the caller keeps calls apart that are about one chunk; other calls may run at once.
class EncryptedScratchFile {
 public:
  /// Files that share a cipher can merge().
  EncryptedScratchFile(const fs::path& directory, std::size_t chunk_count, std::shared_ptr<ScratchCipher> cipher);

  void write(std::uint64_t offset, const ScratchCipher::Sealed& sealed);
  /// Makes the range zeros and gives its space back.
  void zero(std::uint64_t offset, std::uint64_t length);
  /// Fills a block's bytes into out. False: nothing was written there.
  bool read_block(std::uint64_t offset, MutableBytes out) const;
  bool has_chunk(std::uint64_t chunk) const { return chunks_.at(chunk) != nullptr; }
  /// Puts the blocks that `over` holds of a chunk over those of this file, and takes them from `over`.
  void merge(EncryptedScratchFile& over, std::uint64_t chunk);

 private:
  using ChunkBlocks = std::array<ScratchBlock, kScratchBlocksPerChunk>;
  ChunkBlocks& ensure(std::uint64_t chunk);

  fs::path name_for_errors_;
  std::shared_ptr<ScratchCipher> cipher_;
  UniqueFd fd_;
  std::vector<std::unique_ptr<ChunkBlocks>> chunks_;
};

/// Reads any range block by block: read_block is given a block's offset and what to fill, and says false when the
/// block is not there. Returns the runs that were not there.
std::vector<Extent> read_by_blocks(std::uint64_t offset, MutableBytes out,
                                   const std::function<bool(std::uint64_t, MutableBytes)>& read_block);

}  // namespace isr
