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
///   snapshot   since freeze()    until freeze()       drop_frozen() after a publish, thaw() after a failure
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

  /// A record of this image, at replay. Error{kCorrupt} when it makes no sense.
  void replay(const ReplayedRecord& record);

  /// Freezes. Returns the sequence number below which every record of this image is frozen.
  std::uint64_t freeze();
  void thaw();
  void drop_frozen();
  bool is_frozen() const;
  DirtyChunks frozen_chunks() const override;
  std::vector<Extent> read_frozen(std::uint64_t offset, MutableBytes out) override;
  std::optional<ChunkRef> frozen_replaced(std::uint64_t chunk) const override;
  bool frozen_has_bytes(std::uint64_t chunk) const override;

  /// Settling: chunks of the active layer with bytes in `segment` (null: anywhere).
  std::vector<std::uint64_t> chunks_with_bytes(const SegmentPtr& segment) const;
  /// Changes whenever bytes of the chunk change; compare before replace_chunk().
  std::vector<PieceAt> pieces_of(std::uint64_t chunk) const;
  /// Puts a sealed chunk in the place of `seen` (what pieces_of() gave). False, and
  /// nothing done, when the chunk has changed since, has no bytes any more, or a
  /// snapshot is going on.
  bool replace_chunk(std::uint64_t chunk, const ChunkRef& ref, const std::vector<PieceAt>& seen);
  /// Replaces a chunk whatever lies over it: suspended memory.
  void set_chunk(std::uint64_t chunk, const ChunkRef& ref);
  /// Bytes of journal that move_records() would write.
  std::uint64_t live_bytes(const SegmentPtr& segment) const;
  /// Writes what is still needed of `segment`, the journal's oldest, once more behind
  /// the rest, so that it can go. Does nothing while a snapshot is going on.
  void move_records(const SegmentPtr& segment);
  /// Forgets everything, e.g. the memory of a guest that was powered off. Returns
  /// the sequence number below which records of this image are void.
  std::uint64_t clear();

  /// Of both layers; chunks that were discarded whole are not counted.
  std::set<std::uint64_t> dirty_chunks() const;
  bool is_dirty() const;

 private:
  struct Replacement {
    ChunkRef ref;
    RecordPlace place;
    std::uint64_t hides_below = 0;  // older records of the chunk's bytes are void
  };
  struct Layer {
    ExtentMap extents;
    std::map<std::uint64_t, Replacement> replaced;
    bool empty() const { return extents.empty() && replaced.empty(); }
  };

  void append_replacement(std::uint64_t chunk, const ChunkRef& ref);
  void move_replacements(const SegmentPtr& segment);
  void move_pieces(const SegmentPtr& segment);
  bool move_some(std::span<const Extent> runs, const SegmentPtr& segment);
  static void collect(const Layer& layer, const Extent& range, std::vector<PieceAt>& pieces, std::vector<Extent>& gaps);
  std::vector<Extent> fill(std::uint64_t offset, MutableBytes out, const std::vector<PieceAt>& pieces,
                           std::vector<Extent> gaps);
  static DirtyChunks changes_of(const Layer& layer);
  static void cover(Layer& layer, std::uint64_t chunk, const Replacement& replacement);

  std::shared_ptr<Journal> journal_;
  std::uint16_t image_;
  mutable std::mutex mutex_;
  Layer active_;
  std::optional<Layer> frozen_;
};

}  // namespace isr
