#pragma once

#include <map>
#include <mutex>
#include <set>
#include <span>

#include "image/extent_map.h"
#include "image/frozen_changes.h"

namespace isr {

/// The overlay of a disk (or of suspended memory), whose writes are in the session's journal. It has two layers: the
/// active one takes writes; a snapshot freezes it, and new writes go to a fresh one.
///
///   state      active            frozen               ends with
///   running    all changes       –                    freeze()
///   snapshot   since freeze()    until freeze()       absorb_frozen() once it is sealed, thaw() after a failure
///
/// Everything in it has a moment: for bytes, when they were written; for a chunk that replaces the tree's, the last
/// moment whose changes it holds. The greater moment is newer, whatever the order in the journal is.
///
/// Threads: any. Lock its mutex before the journal's.
class JournalOverlay : public Overlay, public FrozenChanges {
 public:
  /// `image` numbers this image in the journal.
  JournalOverlay(std::shared_ptr<Journal> journal, std::uint16_t image);

  std::size_t granularity() const override { return 1; }
  void write(std::uint64_t offset, ByteView data) override;
  void zero(std::uint64_t offset, std::uint64_t length) override;
  std::vector<Extent> read(std::uint64_t offset, MutableBytes out) override;
  std::optional<ChunkRef> replaced(std::uint64_t chunk) override;
  void flush() override;

  /// Applies a record of this image during replay. ReplayedRecords gives the records in the order of their moments.
  /// Error{kCorrupt} when a record makes no sense.
  void replay(const ReplayedRecord& record);

  /// Freezes the active layer. Returns the moment below which everything of this image is frozen.
  std::uint64_t freeze();
  /// Makes the frozen layer active again, below later writes. Does nothing when nothing is frozen.
  void thaw();
  /// Thaws after the frozen changes were sealed: the references in `sealed` replace the frozen layer's bytes of these
  /// chunks, which can then leave the journal. `below` is the result of freeze(). The objects must be durable. After
  /// Error{kIo} nothing is lost; call thaw() then.
  void absorb_frozen(std::span<const SealedChunk> sealed, std::uint64_t below);
  DirtyChunks frozen_chunks() const override;
  std::vector<Extent> read_frozen(std::uint64_t offset, MutableBytes out) override;
  std::optional<ChunkRef> frozen_replaced(std::uint64_t chunk) const override;
  bool frozen_has_bytes(std::uint64_t chunk) const override;
  /// Forgets everything with a smaller moment, because the base has it or it is void.
  void forget_below(std::uint64_t moment);

  /// For settling: chunks of the active layer with bytes in `segment` (null: anywhere).
  std::vector<std::uint64_t> chunks_with_bytes(const SegmentPtr& segment) const;
  /// Changes whenever the active layer's bytes of the chunk change. Compare it before replace_chunk().
  std::vector<PieceAt> pieces_of(std::uint64_t chunk) const;
  /// Replaces `seen` (the result of pieces_of()) with a sealed chunk. Returns false, and does nothing, when the chunk
  /// has changed since or no longer has bytes.
  bool replace_chunk(std::uint64_t chunk, const ChunkRef& ref, const std::vector<PieceAt>& seen);
  /// Replaces a chunk whatever lies over it. For suspended memory.
  void set_chunk(std::uint64_t chunk, const ChunkRef& ref);
  /// Adds, for each segment, the bytes that move_records() would write.
  void add_live_bytes(std::map<SegmentPtr, std::uint64_t>& bytes) const;
  /// Appends the still needed records of `segment` again, so that it can be deleted.
  void move_records(const SegmentPtr& segment);

  /// Of both layers; chunks that were discarded whole are not counted.
  std::set<std::uint64_t> dirty_chunks() const;
  bool is_dirty() const;
  /// Adds the objects of the sealed chunks in both layers.
  void add_objects(std::set<Cid>& objects) const;
  /// How many sealed chunks were ever replaced by newer ones.
  std::uint64_t superseded() const;

 private:
  struct Replacement {
    ChunkRef ref;
    RecordPlace place;
    std::uint64_t moment = 0;
  };
  struct Layer {
    ExtentMap extents;
    std::map<std::uint64_t, Replacement> replaced;
    bool empty() const { return extents.empty() && replaced.empty(); }
  };

  template <class Visit>
  void for_each_layer(Visit visit) {
    visit(active_);
    if (frozen_) visit(*frozen_);
  }
  template <class Visit>
  void for_each_layer(Visit visit) const {
    visit(active_);
    if (frozen_) visit(*frozen_);
  }
  void append_replacement(std::uint64_t chunk, const ChunkRef& ref);
  void thaw_locked();
  void absorb_some(std::span<const SealedChunk> sealed, std::uint64_t moment);
  void move_replacements(std::span<const std::uint64_t> chunks, const SegmentPtr& segment);
  void move_pieces(std::span<const Extent> runs, const SegmentPtr& segment);
  static void collect(const Layer& layer, const Extent& range, std::vector<PieceAt>& pieces, std::vector<Extent>& gaps);
  std::vector<Extent> fill(std::uint64_t offset, MutableBytes out, const std::vector<PieceAt>& pieces,
                           std::vector<Extent> gaps);
  static DirtyChunks changes_of(const Layer& layer);
  void cover(Layer& layer, std::uint64_t chunk, const Replacement& replacement);

  std::shared_ptr<Journal> journal_;
  std::uint16_t image_;
  mutable std::mutex mutex_;
  Layer active_;
  std::optional<Layer> frozen_;
  std::uint64_t superseded_ = 0;
};

}  // namespace isr
