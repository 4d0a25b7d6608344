// Each 4 KiB block has a nonce from one counter under a key of this process, so
// no (key, nonce) pair ever comes twice; nonces and tags stay in memory, 28 bytes a
// block. One mutex a stripe of chunks keeps a block's bytes and tag together; all
// stripes together guard which layers there are.

#include "image/scratch_overlay.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "image/journal_overlay.h"

namespace isr {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kBlocksPerChunk = kChunkSize / kBlock;
constexpr std::size_t kStripes = 64;
constexpr std::size_t kFewChunks = 16;  // of them a thaw merges in a millisecond or so
constexpr int kMostRounds = 8;          // while the guest writes on

struct Block {
  enum class State : std::uint8_t { kAbsent, kZero, kBytes };
  State state = State::kAbsent;
  std::array<std::uint8_t, kTagSize> tag{};
  Nonce nonce;
};
using ChunkBlocks = std::array<Block, kBlocksPerChunk>;

/// A file, and what each block of it holds.
struct Layer {
  Layer(const fs::path& directory, std::size_t chunk_count) : fd(open_unnamed_file(directory)), chunks(chunk_count) {}
  const Block* find(std::uint64_t offset) const {
    const auto& blocks = chunks.at(offset / kChunkSize);
    if (!blocks) return nullptr;
    const Block& block = (*blocks)[offset % kChunkSize / kBlock];
    return block.state == Block::State::kAbsent ? nullptr : &block;
  }
  ChunkBlocks& ensure(std::uint64_t chunk) {
    auto& blocks = chunks.at(chunk);
    if (!blocks) blocks = std::make_unique<ChunkBlocks>();
    return *blocks;
  }

  UniqueFd fd;
  std::vector<std::unique_ptr<ChunkBlocks>> chunks;
};

class Scratch : public ScratchOverlay {
 public:
  Scratch(const fs::path& directory, std::uint64_t size, std::shared_ptr<JournalOverlay> below)
      : directory_(directory),
        path_(directory / "(scratch)"),
        key_(random_key()),
        chunk_count_((size + kChunkSize - 1) / kChunkSize),
        active_(std::make_unique<Layer>(directory, chunk_count_)),
        below_(std::move(below)) {}

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
      ChunkBlocks& blocks = active_->ensure(chunk);
      for (std::size_t i = 0; i < part / kBlock; ++i) blocks[block + i].state = Block::State::kZero;
      // Gives the space back; a file system that cannot only costs space. Not without the
      // mutex: it would take what another thread writes here meanwhile.
      (void)::fallocate(active_->fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(chunk * kChunkSize + block * kBlock), static_cast<off_t>(part));
    });
  }

  std::vector<Extent> read(std::uint64_t offset, MutableBytes out) override {
    const auto gaps = read_blocks(offset, out, /*also_active=*/true);
    return read_gaps_below(gaps, offset, out, &JournalOverlay::read);
  }

  std::optional<ChunkRef> replaced(std::uint64_t chunk) override {
    const auto below = below_.load();
    return below ? below->replaced(chunk) : std::nullopt;
  }

  void flush() override {}

  std::set<std::uint64_t> dirty_chunks() const override {
    std::set<std::uint64_t> dirty;
    for (std::uint64_t chunk = 0; chunk < chunk_count_; ++chunk) {
      const std::lock_guard lock(stripe(chunk));
      if (active_->chunks[chunk] || (frozen_ && frozen_->chunks[chunk])) dirty.insert(dirty.end(), chunk);
    }
    return dirty;
  }

  void lie_over(std::shared_ptr<JournalOverlay> below) override { below_ = std::move(below); }

  void freeze() override {
    thaw();  // what an earlier thaw could not finish
    auto fresh = std::make_unique<Layer>(directory_, chunk_count_);
    const auto locks = lock_all();
    frozen_ = std::move(active_);
    active_ = std::move(fresh);
  }

  /// First one chunk at a time, so that the guest's writes go on beside it. What they bring meanwhile is
  /// merged in the next round, and the last of it, little, while they wait.
  void thaw() override {
    for (int round = 0; round < kMostRounds && merge_one_by_one() > kFewChunks; ++round) {
    }
    std::unique_ptr<Layer> emptied;  // destroyed without the mutexes
    const auto locks = lock_all();
    if (!frozen_) return;
    for (std::uint64_t chunk = 0; chunk < chunk_count_; ++chunk) {
      if (active_->chunks[chunk]) merge(chunk);
    }
    emptied = std::exchange(active_, std::move(frozen_));
  }

  void drop_frozen() override {
    std::unique_ptr<Layer> dropped;  // destroyed without the mutexes: it may be large
    const auto locks = lock_all();
    dropped.swap(frozen_);
  }

  DirtyChunks frozen_chunks() const override {
    const auto below = below_.load();
    DirtyChunks changes = below ? below->frozen_chunks() : DirtyChunks{};
    for (const ChunkRun& run : changes.zeros) {
      for (std::uint64_t chunk = run.first; chunk < run.end(); ++chunk) changes.chunks.insert(chunk);
    }
    changes.zeros.clear();  // there may be bytes over them here
    for (std::uint64_t chunk = 0; chunk < chunk_count_; ++chunk) {
      if (has_frozen(chunk)) changes.chunks.insert(chunk);
    }
    return changes;
  }

  std::vector<Extent> read_frozen(std::uint64_t offset, MutableBytes out) override {
    const auto gaps = read_blocks(offset, out, /*also_active=*/false);
    return read_gaps_below(gaps, offset, out, &JournalOverlay::read_frozen);
  }

  std::optional<ChunkRef> frozen_replaced(std::uint64_t chunk) const override {
    (void)has_frozen(chunk);  // throws when nothing is frozen
    const auto below = below_.load();
    return below ? below->frozen_replaced(chunk) : std::nullopt;
  }

  bool frozen_has_bytes(std::uint64_t chunk) const override {
    const auto below = below_.load();
    return has_frozen(chunk) || (below && below->frozen_has_bytes(chunk));
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
  std::vector<Extent> read_gaps_below(const std::vector<Extent>& gaps, std::uint64_t offset, MutableBytes out,
                                      std::vector<Extent> (JournalOverlay::*reading)(std::uint64_t, MutableBytes)) {
    const auto below = below_.load();
    if (!below) return gaps;
    std::vector<Extent> rest;
    for (const Extent& gap : gaps) {
      const auto lower = ((*below).*reading)(gap.offset, out.subspan(gap.offset - offset, gap.length));
      rest.insert(rest.end(), lower.begin(), lower.end());
    }
    return rest;
  }

  std::mutex& stripe(std::uint64_t chunk) const { return stripes_[chunk % kStripes]; }

  void require_frozen() const {
    if (!frozen_) throw Error(ErrorKind::kBug, "no checkpoint is going on");
  }

  bool has_frozen(std::uint64_t chunk) const {
    const std::lock_guard lock(stripe(chunk));
    require_frozen();
    return frozen_->chunks[chunk] != nullptr;
  }

  std::vector<std::unique_lock<std::mutex>> lock_all() const {
    std::vector<std::unique_lock<std::mutex>> locks;
    for (std::mutex& mutex : stripes_) locks.emplace_back(mutex);
    return locks;
  }

  std::size_t merge_one_by_one() {
    std::size_t merged = 0;
    for (std::uint64_t chunk = 0; chunk < chunk_count_; ++chunk) {
      const std::lock_guard lock(stripe(chunk));
      if (!frozen_ || !active_->chunks[chunk]) continue;
      merge(chunk);
      ++merged;
    }
    return merged;
  }

  /// Puts the active layer's blocks of a chunk over the frozen layer's: sealed under one
  /// key in one place, they are copied as they are.
  void merge(std::uint64_t chunk) {
    const ChunkBlocks& over = *active_->chunks[chunk];
    ChunkBlocks& under = frozen_->ensure(chunk);
    Bytes cipher(kBlock);
    for (std::size_t i = 0; i < kBlocksPerChunk; ++i) {
      if (over[i].state == Block::State::kAbsent) continue;
      if (over[i].state == Block::State::kBytes) {
        const std::uint64_t offset = chunk * kChunkSize + i * kBlock;
        read_exact_at(active_->fd.get(), cipher, offset, path_);
        write_all_at(frozen_->fd.get(), cipher, offset, path_);
      }
      under[i] = over[i];
    }
    active_->chunks[chunk].reset();
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
    write_all_at(active_->fd.get(), cipher, chunk * kChunkSize + first_block * kBlock, path_);
    ChunkBlocks& blocks = active_->ensure(chunk);
    std::copy_n(written.begin(), data.size() / kBlock, blocks.begin() + static_cast<std::ptrdiff_t>(first_block));
  }

  std::vector<Extent> read_blocks(std::uint64_t offset, MutableBytes out, bool also_active) {
    std::vector<Extent> gaps;
    const std::uint64_t end = offset + out.size();
    const std::uint64_t first = offset / kBlock * kBlock;
    std::array<std::uint8_t, kBlock> edge{};
    for (std::uint64_t at = first; at < end; at += kBlock) {
      const std::uint64_t from = std::max(at, offset);
      const std::uint64_t until = std::min(at + kBlock, end);
      const bool whole = until - from == kBlock;
      const MutableBytes part = out.subspan(from - offset, until - from);
      if (!read_block(at, whole ? part : MutableBytes(edge), also_active)) {
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

  /// False: not here.
  bool read_block(std::uint64_t offset, MutableBytes out, bool also_active) {
    const std::lock_guard lock(stripe(offset / kChunkSize));
    if (!also_active) require_frozen();
    const Layer* layer = active_.get();
    const Block* block = also_active ? layer->find(offset) : nullptr;
    if (!block && frozen_) {
      layer = frozen_.get();
      block = layer->find(offset);
    }
    if (!block) return false;
    if (block->state == Block::State::kZero) {
      std::fill(out.begin(), out.end(), std::uint8_t{0});
      return true;
    }
    read_exact_at(layer->fd.get(), out, offset, path_);
    if (!gcm_open(key_, block->nonce, {}, out, block->tag, out)) {
      throw Error(ErrorKind::kCorrupt, fmt::format("the scratch file is damaged at byte {}", offset));
    }
    return true;
  }

  fs::path directory_;
  fs::path path_;
  SecretKey key_;
  std::atomic<std::uint64_t> counter_{0};
  mutable std::array<std::mutex, kStripes> stripes_;
  std::size_t chunk_count_;
  std::unique_ptr<Layer> active_;
  std::unique_ptr<Layer> frozen_;  // null but during a checkpoint
  std::atomic<std::shared_ptr<JournalOverlay>> below_;
};

}  // namespace

std::shared_ptr<ScratchOverlay> make_scratch_overlay(const fs::path& directory, std::uint64_t size,
                                                     std::shared_ptr<JournalOverlay> below) {
  return std::make_shared<Scratch>(directory, size, std::move(below));
}

}  // namespace isr
