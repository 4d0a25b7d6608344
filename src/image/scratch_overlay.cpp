// Each 4 KiB block has a nonce from one counter under a key of this process, so
// no (key, nonce) pair ever comes twice; nonces and tags stay in memory, 28 bytes a
// block. One mutex a stripe of chunks keeps a block's bytes and tag together.

#include "image/scratch_overlay.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <mutex>

#include "base/error.h"
#include "base/file.h"

namespace isr {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kBlocksPerChunk = kChunkSize / kBlock;
constexpr std::size_t kStripes = 64;

struct Block {
  enum class State : std::uint8_t { kAbsent, kZero, kBytes };
  State state = State::kAbsent;
  std::array<std::uint8_t, kTagSize> tag{};
  Nonce nonce;
};
using ChunkBlocks = std::array<Block, kBlocksPerChunk>;

class Scratch : public ScratchOverlay {
 public:
  Scratch(const fs::path& directory, std::uint64_t size, std::shared_ptr<Overlay> below)
      : path_(directory / "(scratch)"),
        fd_(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)),
        key_(random_key()),
        chunks_((size + kChunkSize - 1) / kChunkSize),
        below_(std::move(below)) {
    if (!fd_) throw_errno(fmt::format("cannot make a scratch file in {}", directory.string()), errno);
  }

  std::size_t granularity() const override { return kBlock; }

  void write(std::uint64_t offset, ByteView data) override {
    for_each_chunk_part(offset, data.size(),
                        [&](std::uint64_t chunk, std::size_t block, std::size_t at, std::size_t length) {
                          write_part(chunk, block, data.subspan(at, length));
                        });
  }

  void zero(std::uint64_t offset, std::uint64_t length) override {
    for_each_chunk_part(offset, length, [&](std::uint64_t chunk, std::size_t block, std::uint64_t, std::size_t part) {
      const std::lock_guard lock(stripe(chunk));
      ChunkBlocks& blocks = ensure(chunk);
      for (std::size_t i = 0; i < part / kBlock; ++i) blocks[block + i].state = Block::State::kZero;
      // Gives the space back; a file system that cannot only costs space. Not without the
      // mutex: it would take what another thread writes here meanwhile.
      (void)::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(chunk * kChunkSize + block * kBlock), static_cast<off_t>(part));
    });
  }

  std::vector<Extent> read(std::uint64_t offset, MutableBytes out) override {
    std::vector<Extent> gaps;
    const std::uint64_t end = offset + out.size();
    const std::uint64_t first = offset / kBlock * kBlock;
    std::array<std::uint8_t, kBlock> edge{};
    for (std::uint64_t at = first; at < end; at += kBlock) {
      const std::uint64_t from = std::max(at, offset);
      const std::uint64_t until = std::min(at + kBlock, end);
      const bool whole = until - from == kBlock;
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
    return below_ ? read_gaps_below(gaps, offset, out) : gaps;
  }

  std::optional<ChunkRef> replaced(std::uint64_t chunk) override {
    return below_ ? below_->replaced(chunk) : std::nullopt;
  }

  void flush() override {}

  std::set<std::uint64_t> dirty_chunks() const override {
    std::set<std::uint64_t> dirty;
    for (std::uint64_t chunk = 0; chunk < chunks_.size(); ++chunk) {
      const std::lock_guard lock(stripe(chunk));
      if (chunks_[chunk]) dirty.insert(chunk);
    }
    return dirty;
  }

 private:
  template <class Visit>
  static void for_each_chunk_part(std::uint64_t offset, std::uint64_t length, Visit visit) {
    for (std::uint64_t done = 0; done < length;) {
      const std::uint64_t at = offset + done;
      const auto part = static_cast<std::size_t>(std::min(length - done, kChunkSize - at % kChunkSize));
      visit(at / kChunkSize, static_cast<std::size_t>(at % kChunkSize / kBlock), static_cast<std::size_t>(done), part);
      done += part;
    }
  }

  /// What of the gaps lies nowhere above the tree.
  std::vector<Extent> read_gaps_below(const std::vector<Extent>& gaps, std::uint64_t offset, MutableBytes out) {
    std::vector<Extent> rest;
    for (const Extent& gap : gaps) {
      const auto lower = below_->read(gap.offset, out.subspan(gap.offset - offset, gap.length));
      rest.insert(rest.end(), lower.begin(), lower.end());
    }
    return rest;
  }

  std::mutex& stripe(std::uint64_t chunk) const { return stripes_[chunk % kStripes]; }

  ChunkBlocks& ensure(std::uint64_t chunk) {
    auto& blocks = chunks_.at(chunk);
    if (!blocks) blocks = std::make_unique<ChunkBlocks>();
    return *blocks;
  }

  void write_part(std::uint64_t chunk, std::size_t first_block, ByteView data) {
    thread_local Bytes cipher;
    cipher.resize(data.size());
    std::array<Block, kBlocksPerChunk> written;
    for (std::size_t i = 0; i < data.size() / kBlock; ++i) {
      const std::uint64_t number = ++counter_;
      std::memcpy(written[i].nonce.value.data(), &number, sizeof number);
      written[i].state = Block::State::kBytes;
      written[i].tag = gcm_seal(key_, written[i].nonce, {}, data.subspan(i * kBlock, kBlock),
                                MutableBytes(cipher).subspan(i * kBlock, kBlock));
    }
    const std::lock_guard lock(stripe(chunk));
    write_all_at(fd_.get(), cipher, chunk * kChunkSize + first_block * kBlock, path_);
    ChunkBlocks& blocks = ensure(chunk);
    std::copy_n(written.begin(), data.size() / kBlock, blocks.begin() + static_cast<std::ptrdiff_t>(first_block));
  }

  /// False: not here.
  bool read_block(std::uint64_t offset, MutableBytes out) {
    const std::uint64_t chunk = offset / kChunkSize;
    const std::lock_guard lock(stripe(chunk));
    const auto& blocks = chunks_.at(chunk);
    if (!blocks) return false;
    const Block& block = (*blocks)[offset % kChunkSize / kBlock];
    if (block.state == Block::State::kAbsent) return false;
    if (block.state == Block::State::kZero) {
      std::fill(out.begin(), out.end(), std::uint8_t{0});
      return true;
    }
    read_exact_at(fd_.get(), out, offset, path_);
    if (!gcm_open(key_, block.nonce, {}, out, block.tag, out)) {
      throw Error(ErrorKind::kCorrupt, fmt::format("the scratch file is damaged at byte {}", offset));
    }
    return true;
  }

  fs::path path_;
  UniqueFd fd_;
  Key key_;
  std::atomic<std::uint64_t> counter_{0};
  mutable std::array<std::mutex, kStripes> stripes_;
  std::vector<std::unique_ptr<ChunkBlocks>> chunks_;
  std::shared_ptr<Overlay> below_;
};

}  // namespace

std::shared_ptr<ScratchOverlay> make_scratch_overlay(const fs::path& directory, std::uint64_t size,
                                                     std::shared_ptr<Overlay> below) {
  return std::make_shared<Scratch>(directory, size, std::move(below));
}

}  // namespace isr
