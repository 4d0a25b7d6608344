#include "image/encrypted_scratch_file.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace isr {

ScratchCipher::ScratchCipher() : key_(random_key()) {}

const ScratchCipher::Sealed& ScratchCipher::seal(ByteView data) {
  thread_local Sealed sealed;
  sealed.cipher.resize(data.size());
  sealed.blocks.resize(data.size() / kScratchBlock);
  for (std::size_t i = 0; i < sealed.blocks.size(); ++i) {
    ScratchBlock& block = sealed.blocks[i];
    const std::uint64_t number = ++counter_;
    block.nonce = {};
    std::memcpy(block.nonce.value.data(), &number, sizeof number);
    block.state = ScratchBlock::State::kBytes;
    block.tag = gcm_seal(key_, block.nonce, {}, data.subspan(i * kScratchBlock, kScratchBlock),
                         MutableBytes(sealed.cipher).subspan(i * kScratchBlock, kScratchBlock));
  }
  return sealed;
}

void ScratchCipher::open(const ScratchBlock& block, MutableBytes bytes, std::uint64_t offset) const {
  if (!gcm_open(key_, block.nonce, {}, bytes, block.tag, bytes)) {
    throw Error(ErrorKind::kCorrupt, fmt::format("the scratch file is damaged at byte {}", offset));
  }
}

EncryptedScratchFile::EncryptedScratchFile(const fs::path& directory, std::size_t chunk_count,
                                           std::shared_ptr<ScratchCipher> cipher)
    : name_for_errors_(directory / "(scratch)"),
      cipher_(std::move(cipher)),
      fd_(open_unnamed_file(directory)),
      chunks_(chunk_count) {}

EncryptedScratchFile::ChunkBlocks& EncryptedScratchFile::ensure(std::uint64_t chunk) {
  auto& blocks = chunks_.at(chunk);
  if (!blocks) blocks = std::make_unique<ChunkBlocks>();
  return *blocks;
}

void EncryptedScratchFile::write(std::uint64_t offset, const ScratchCipher::Sealed& sealed) {
  write_all_at(fd_.get(), sealed.cipher, offset, name_for_errors_);
  ChunkBlocks& blocks = ensure(offset / kChunkSize);
  std::copy(sealed.blocks.begin(), sealed.blocks.end(),
            blocks.begin() + static_cast<std::ptrdiff_t>(offset % kChunkSize / kScratchBlock));
}

void EncryptedScratchFile::zero(std::uint64_t offset, std::uint64_t length) {
  ChunkBlocks& blocks = ensure(offset / kChunkSize);
  const std::size_t first = offset % kChunkSize / kScratchBlock;
  for (std::size_t i = 0; i < length / kScratchBlock; ++i) blocks[first + i].state = ScratchBlock::State::kZero;
  // If the file system cannot punch holes, only space is lost.
  (void)::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                    static_cast<off_t>(length));
}

bool EncryptedScratchFile::read_block(std::uint64_t offset, MutableBytes out) const {
  const auto& blocks = chunks_.at(offset / kChunkSize);
  if (!blocks) return false;
  const ScratchBlock& block = (*blocks)[offset % kChunkSize / kScratchBlock];
  if (block.state == ScratchBlock::State::kAbsent) return false;
  if (block.state == ScratchBlock::State::kZero) {
    std::fill(out.begin(), out.end(), std::uint8_t{0});
    return true;
  }
  read_exact_at(fd_.get(), out, offset, name_for_errors_);
  cipher_->open(block, out, offset);
  return true;
}

void EncryptedScratchFile::merge(EncryptedScratchFile& over, std::uint64_t chunk) {
  // Both files seal under one key and position, so the bytes are copied as they are.
  const ChunkBlocks& upper = *over.chunks_.at(chunk);
  ChunkBlocks& lower = ensure(chunk);
  Bytes cipher(kScratchBlock);
  for (std::size_t i = 0; i < kScratchBlocksPerChunk; ++i) {
    if (upper[i].state == ScratchBlock::State::kAbsent) continue;
    if (upper[i].state == ScratchBlock::State::kBytes) {
      const std::uint64_t offset = chunk * kChunkSize + i * kScratchBlock;
      read_exact_at(over.fd_.get(), cipher, offset, name_for_errors_);
      write_all_at(fd_.get(), cipher, offset, name_for_errors_);
    }
    lower[i] = upper[i];
  }
  over.chunks_.at(chunk).reset();
}

std::vector<Extent> read_by_blocks(std::uint64_t offset, MutableBytes out,
                                   const std::function<bool(std::uint64_t, MutableBytes)>& read_block) {
  std::vector<Extent> gaps;
  const std::uint64_t end = offset + out.size();
  std::array<std::uint8_t, kScratchBlock> edge{};
  for (std::uint64_t at = offset / kScratchBlock * kScratchBlock; at < end; at += kScratchBlock) {
    const std::uint64_t from = std::max(at, offset);
    const std::uint64_t until = std::min(at + kScratchBlock, end);
    const bool whole = until - from == kScratchBlock;
    const MutableBytes part = out.subspan(from - offset, until - from);
    if (!read_block(at, whole ? part : MutableBytes(edge))) {
      if (!gaps.empty() && gaps.back().end() == from) {
        gaps.back().length += until - from;
      } else {
        gaps.push_back({from, until - from});
      }
    } else if (!whole) {
      std::copy_n(edge.begin() + static_cast<std::ptrdiff_t>(from - at), part.size(), part.begin());
    }
  }
  return gaps;
}

}  // namespace isr
