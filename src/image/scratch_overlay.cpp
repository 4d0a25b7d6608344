// Two encrypted files: the active one, and a frozen one during a checkpoint. One mutex for each stripe of chunks keeps
// both files consistent for a chunk. All these mutexes together guard the file pointers.

#include "image/scratch_overlay.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "image/encrypted_scratch_file.h"
#include "image/journal_overlay.h"

namespace isr {
namespace {

constexpr std::size_t kStripes = 64;
constexpr std::size_t kFewChunks = 16;  // a thaw merges this many in about a millisecond
constexpr int kMostRounds = 8;          // while the guest goes on writing

class Scratch : public ScratchOverlay {
 public:
  Scratch(const fs::path& directory, std::uint64_t size, std::shared_ptr<JournalOverlay> below)
      : directory_(directory),
        chunk_count_((size + kChunkSize - 1) / kChunkSize),
        active_(make_file()),
        below_(std::move(below)) {}

  std::size_t granularity() const override { return kScratchBlock; }

  void write(std::uint64_t offset, ByteView data) override {
    for_each_chunk_part(offset, data.size(), [&](std::uint64_t at, std::size_t done, std::size_t part) {
      const auto& sealed = cipher_->seal(data.subspan(done, part));
      const std::lock_guard lock(stripe(at / kChunkSize));
      active_->write(at, sealed);
    });
  }

  void zero(std::uint64_t offset, std::uint64_t length) override {
    for_each_chunk_part(offset, length, [&](std::uint64_t at, std::size_t /*done*/, std::size_t part) {
      const std::lock_guard lock(stripe(at / kChunkSize));
      active_->zero(at, part);
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
      if (active_->has_chunk(chunk) || (frozen_ && frozen_->has_chunk(chunk))) dirty.insert(dirty.end(), chunk);
    }
    return dirty;
  }

  void lie_over(std::shared_ptr<JournalOverlay> below) override { below_ = std::move(below); }

  void freeze() override {
    thaw();  // merges the rest of an earlier thaw
    auto fresh = make_file();
    const auto locks = lock_all();
    frozen_ = std::move(active_);
    active_ = std::move(fresh);
  }

  /// First merges one chunk at a time, so that the guest's writes go on. The next round merges what they added. The
  /// small last rest is merged while writes wait.
  void thaw() override {
    for (int round = 0; round < kMostRounds && merge_one_by_one() > kFewChunks; ++round) {
    }
    std::unique_ptr<EncryptedScratchFile> emptied;  // destroyed without the mutexes
    const auto locks = lock_all();
    if (!frozen_) return;
    for (std::uint64_t chunk = 0; chunk < chunk_count_; ++chunk) {
      if (active_->has_chunk(chunk)) frozen_->merge(*active_, chunk);
    }
    emptied = std::exchange(active_, std::move(frozen_));
  }

  void drop_frozen() override {
    std::unique_ptr<EncryptedScratchFile> dropped;  // destroyed without the mutexes: it may be large
    const auto locks = lock_all();
    dropped.swap(frozen_);
  }

  DirtyChunks frozen_chunks() const override {
    const auto below = below_.load();
    DirtyChunks changes = below ? below->frozen_chunks() : DirtyChunks{};
    for (const ChunkRun& run : changes.zeros) {
      for (std::uint64_t chunk = run.first; chunk < run.end(); ++chunk) changes.chunks.insert(chunk);
    }
    changes.zeros.clear();  // this layer may have bytes over them
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
  std::unique_ptr<EncryptedScratchFile> make_file() const {
    return std::make_unique<EncryptedScratchFile>(directory_, chunk_count_, cipher_);
  }

  /// visit(offset, bytes done before it, bytes of this part)
  template <class Visit>
  static void for_each_chunk_part(std::uint64_t offset, std::uint64_t length, Visit visit) {
    for (std::uint64_t done = 0; done < length;) {
      const std::uint64_t at = offset + done;
      const auto part = static_cast<std::size_t>(std::min(length - done, kChunkSize - at % kChunkSize));
      visit(at, static_cast<std::size_t>(done), part);
      done += part;
    }
  }

  /// The parts of the gaps for which no layer above the tree has data.
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
    if (!frozen_) throw Error(ErrorKind::kBug, "no checkpoint is under way");
  }

  bool has_frozen(std::uint64_t chunk) const {
    const std::lock_guard lock(stripe(chunk));
    require_frozen();
    return frozen_->has_chunk(chunk);
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
      if (!frozen_ || !active_->has_chunk(chunk)) continue;
      frozen_->merge(*active_, chunk);
      ++merged;
    }
    return merged;
  }

  std::vector<Extent> read_blocks(std::uint64_t offset, MutableBytes out, bool also_active) {
    return read_by_blocks(offset, out,
                          [&](std::uint64_t at, MutableBytes block) { return read_block(at, block, also_active); });
  }

  /// Returns false when the block is not here.
  bool read_block(std::uint64_t offset, MutableBytes out, bool also_active) {
    const std::lock_guard lock(stripe(offset / kChunkSize));
    if (!also_active) require_frozen();
    return (also_active && active_->read_block(offset, out)) || (frozen_ && frozen_->read_block(offset, out));
  }

  fs::path directory_;
  std::shared_ptr<ScratchCipher> cipher_ = std::make_shared<ScratchCipher>();
  mutable std::array<std::mutex, kStripes> stripes_;
  std::size_t chunk_count_;
  std::unique_ptr<EncryptedScratchFile> active_;
  std::unique_ptr<EncryptedScratchFile> frozen_;  // null except during a checkpoint
  std::atomic<std::shared_ptr<JournalOverlay>> below_;
};

}  // namespace

std::shared_ptr<ScratchOverlay> make_scratch_overlay(const fs::path& directory, std::uint64_t size,
                                                     std::shared_ptr<JournalOverlay> below) {
  return std::make_shared<Scratch>(directory, size, std::move(below));
}

}  // namespace isr
