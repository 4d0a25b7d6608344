#pragma once

#include <atomic>
#include <shared_mutex>
#include <string>

#include "base/sync.h"
#include "image/overlay.h"
#include "image/read_ahead.h"
#include "image/tree.h"

namespace isr {

struct ImageCounters {
  std::atomic<std::uint64_t> read_bytes{0}, written_bytes{0}, reads{0}, writes{0}, flushes{0}, read_errors{0};
};

/// A byte array kept in chunks: a disk, guest memory. Reads any range and, with
/// an overlay, writes any range; a partial write of a chunk that is not here
/// fetches nothing. Sequential reads are read ahead.
///
/// Errors:  as ChunkReader and Overlay. Writing without an overlay is kDenied.
/// Threads: any. No lock is held across a fetch.
class Image {
 public:
  /// overlay may be null (read-only).
  Image(std::string name, TreeRoot base, std::shared_ptr<ChunkReader> reader, std::shared_ptr<Overlay> overlay);

  const std::string& name() const noexcept { return name_; }
  std::uint64_t size() const noexcept { return size_; }
  bool writable() const noexcept { return overlay_ != nullptr; }

  /// Returns the bytes read, short or 0 at the end of the image.
  std::size_t read(std::uint64_t offset, MutableBytes out);
  /// Error{kUsage} beyond the end. data may begin and end anywhere.
  void write(std::uint64_t offset, ByteView data);
  /// Makes the range read as zeros without storing them.
  void discard(std::uint64_t offset, std::uint64_t length);
  void flush();

  TreeRoot base() const;
  /// After a publish: the tree that now lies below the overlay.
  void set_base(const TreeRoot& base);
  const ImageCounters& counters() const noexcept { return counters_; }

 private:
  /// What prefetch threads need. They are the reader's own, so they end before it.
  struct Below {
    Below(ChunkReader& from, std::shared_ptr<Overlay> over, const TreeRoot& tree)
        : reader(from), overlay(std::move(over)), base(tree) {}
    ChunkRef reference(std::uint64_t chunk, Priority priority) const;
    ChunkReader& reader;
    std::shared_ptr<Overlay> overlay;
    Sync<TreeRoot> base;
  };
  void read_chunk_below(std::uint64_t chunk, std::size_t within, MutableBytes out, bool sequential);
  void read_below(std::uint64_t offset, MutableBytes out);
  /// True when the read continues others.
  bool read_ahead(std::uint64_t offset, std::size_t length);
  void write_block_edges(std::uint64_t offset, ByteView data);

  std::string name_;
  std::uint64_t size_;
  std::shared_ptr<ChunkReader> reader_;
  std::shared_ptr<Overlay> overlay_;
  std::shared_ptr<Below> below_;
  Sync<ReadAhead> read_ahead_;
  ImageCounters counters_;
  /// For overlays with a granularity above 1: whoever reads, changes and writes a
  /// block excludes who writes it whole.
  std::shared_mutex edge_mutex_;
};

}  // namespace isr
