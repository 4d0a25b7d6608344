#pragma once

#include <atomic>
#include <functional>
#include <shared_mutex>
#include <string>

#include "base/room.h"
#include "base/sync.h"
#include "image/first_touches.h"
#include "image/hot_pages.h"
#include "image/overlay.h"
#include "image/patches.h"
#include "image/read_ahead.h"

namespace isr {

struct ImageCounters {
  std::atomic<std::uint64_t> read_bytes{0}, written_bytes{0}, discarded_bytes{0}, reads{0}, writes{0}, flushes{0},
      read_errors{0};
  std::atomic<std::uint64_t> hot_pages{0};  ///< reads within a page that set_hot_pages() answered
};

/// A byte array kept in chunks and patches: a disk, or guest memory. Reads any range and, with an overlay, writes any
/// range. A partial write of a chunk that is not on this host fetches nothing. Sequential reads are read ahead.
///
/// Errors:  as ChunkReader and Overlay. Writing without an overlay is kDenied.
/// Threads: any. No lock is held across a fetch.
class Image {
 public:
  /// overlay may be null (read-only).
  Image(std::string name, const PatchedTree& base, std::shared_ptr<ChunkReader> reader,
        std::shared_ptr<Overlay> overlay);
  /// An image over the base of another one, whose tables of patches it need not read again.
  Image(std::string name, std::shared_ptr<const BaseContent> base, std::shared_ptr<ChunkReader> reader,
        std::shared_ptr<Overlay> overlay);

  const std::string& name() const noexcept { return name_; }
  std::uint64_t size() const noexcept { return size_; }
  bool writable() const noexcept { return overlay_ != nullptr; }

  /// Returns the bytes read, short or 0 at the end of the image.
  std::size_t read(std::uint64_t offset, MutableBytes out);
  /// Error{kUsage} beyond the end. data may have any alignment.
  void write(std::uint64_t offset, ByteView data);
  /// Makes the range read as zeros without storing them.
  void discard(std::uint64_t offset, std::uint64_t length);
  void flush();

  PatchedTree base() const { return base_content()->tree(); }
  /// To read the base without the overlay, or through another reader.
  std::shared_ptr<const BaseContent> base_content() const { return *below_->base.lock(); }
  /// Sets a function that frees space when the disk is full, before a write fails. Call before the first write.
  void set_make_room(MakeRoom make_room) { make_room_ = std::move(make_room); }
  /// Call after a publish: from now on `published` lies below the overlay. Calls `forget` once every read uses the new
  /// base; `forget` makes the overlay drop the changes that the tree has. Other images over the same overlay must adopt
  /// the base before.
  void adopt(const PatchedTree& published, const std::function<void()>& forget);
  /// Until adopt(), reads of the base's pages are answered from these pages where no newer data lies over them.
  void set_hot_pages(HotImage pages);
  /// Reads are recorded there as reads of image `number`. Null stops that.
  void set_touches(std::shared_ptr<FirstTouches> touches, std::uint8_t number);
  /// The objects that reading a chunk below the overlay's bytes needs: that of the chunk, and those of patches. Fetches
  /// the pages and patch tables on the way. For fetching ahead.
  std::vector<ChunkRef> references(std::uint64_t chunk, Priority priority, const std::stop_token& stop) const {
    return below_->references(chunk, priority, stop);
  }
  const ImageCounters& counters() const noexcept { return counters_; }

 private:
  using BasePtr = std::shared_ptr<const BaseContent>;
  /// The data that prefetch threads need. The threads belong to the reader, so they end before it.
  struct Below {
    Below(ChunkReader& from, std::shared_ptr<Overlay> over, BasePtr content)
        : reader(from), overlay(std::move(over)), base(std::move(content)) {}
    std::vector<ChunkRef> references(std::uint64_t chunk, Priority priority, const std::stop_token& stop = {}) const;
    ChunkReader& reader;
    std::shared_ptr<Overlay> overlay;
    Sync<BasePtr> base;
  };
  void read_chunk_below(std::uint64_t chunk, std::size_t within, MutableBytes out, bool sequential);
  void read_below(std::uint64_t offset, MutableBytes out);
  void read_tree(std::uint64_t offset, MutableBytes out);
  bool read_hot(const HotImage& hot, std::uint64_t offset, MutableBytes out);
  void note_touch(std::uint64_t offset, std::size_t length);
  /// Returns true when the read continues a sequential one.
  bool read_ahead(std::uint64_t offset, std::size_t length);
  void write_block_edges(std::uint64_t offset, ByteView data);

  std::string name_;
  std::uint64_t size_;
  std::shared_ptr<ChunkReader> reader_;
  std::shared_ptr<Overlay> overlay_;
  MakeRoom make_room_;
  std::shared_ptr<Below> below_;
  Sync<ReadAhead> read_ahead_;
  struct Touches {
    std::shared_ptr<FirstTouches> list;
    std::uint8_t number = 0;
  };
  Sync<Touches> touches_;
  Sync<HotImage> hot_;
  ImageCounters counters_;
  /// For overlays with a granularity above 1: a thread that reads, changes and writes back a block excludes those that
  /// write the whole block.
  std::shared_mutex edge_mutex_;
};

}  // namespace isr
