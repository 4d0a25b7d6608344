#pragma once

#include <map>
#include <mutex>
#include <set>
#include <span>

#include "image/extent_map.h"
#include "image/frozen_changes.h"

namespace isr {

/// The overlay of a disk (or of suspended memory): its writes stand in the
/// session's journal. Two layers: the active one takes writes; a snapshot freezes
/// it and new writes go to a fresh one.
///
///   state      active            frozen               ends with
///   running    all changes       –                    freeze()
///   snapshot   since freeze()    until freeze()       absorb_frozen() once it is sealed, thaw() after a failure
///
/// Everything in it has a moment: bytes that of their writing, a chunk that replaces the tree's the
/// last one whose changes it holds. What has the greater moment is newer, in whatever order the journal has them.
///
/// Threads: any. Its mutex is taken before the journal's.
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

  /// A record of this image, at replay, which gives them in the order of their moments (ReplayedRecords).
  /// Error{kCorrupt} when it makes no sense.
  void replay(const ReplayedRecord& record);

  /// Freezes. Returns the moment below which everything of this image is frozen.
  std::uint64_t freeze();
  /// The frozen layer is active again, below what was written since. Does nothing when nothing is frozen.
  void thaw();
  /// The same, once what the frozen layer changes is sealed: what it has of these chunks are their references
  /// from now on, so that their bytes leave the journal. `below` is what freeze() gave. The objects are durable.
  /// After Error{kIo} nothing is lost; thaw() ends it.
  void absorb_frozen(std::span<const SealedChunk> sealed, std::uint64_t below);
  DirtyChunks frozen_chunks() const override;
  std::vector<Extent> read_frozen(std::uint64_t offset, MutableBytes out) override;
  std::optional<ChunkRef> frozen_replaced(std::uint64_t chunk) const override;
  bool frozen_has_bytes(std::uint64_t chunk) const override;
  /// Forgets what has a smaller moment: the base has it, or it is void.
  void forget_below(std::uint64_t moment);

  /// Settling: chunks of the active layer with bytes in `segment` (null: anywhere).
  std::vector<std::uint64_t> chunks_with_bytes(const SegmentPtr& segment) const;
  /// Changes whenever the active layer's bytes of the chunk change; compare before replace_chunk().
  std::vector<PieceAt> pieces_of(std::uint64_t chunk) const;
  /// Puts a sealed chunk in the place of `seen` (what pieces_of() gave). False, and
  /// nothing done, when the chunk has changed since, or has no bytes any more.
  bool replace_chunk(std::uint64_t chunk, const ChunkRef& ref, const std::vector<PieceAt>& seen);
  /// Replaces a chunk whatever lies over it: suspended memory.
  void set_chunk(std::uint64_t chunk, const ChunkRef& ref);
  /// Adds, for each segment, the bytes that move_records() would write.
  void add_live_bytes(std::map<SegmentPtr, std::uint64_t>& bytes) const;
  /// Writes what is still needed of `segment` once more behind the rest, so that it can go.
  void move_records(const SegmentPtr& segment);

  /// Of both layers; chunks that were discarded whole are not counted.
  std::set<std::uint64_t> dirty_chunks() const;
  bool is_dirty() const;
  /// Adds the objects of sealed chunks that lie in either layer.
  void add_objects(std::set<Cid>& objects) const;
  /// How many sealed chunks others took the place of, ever.
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
