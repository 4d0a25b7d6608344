#pragma once

#include <mutex>
#include <string>

#include "base/sync.h"
#include "image/overlay.h"
#include "image/tree.h"

namespace isr {

struct ImageCounters {
  std::atomic<std::uint64_t> read_bytes{0}, written_bytes{0}, reads{0}, writes{0}, flushes{0}, read_errors{0};
};

/// A byte array kept in chunks: a disk, guest memory. Reads any range and, with
/// an overlay, writes any range; a partial write of a chunk that is not here
/// fetches nothing. Sequential reads are read ahead, when a shared_ptr owns it.
///
/// Errors:  as ChunkReader and Overlay. Writing without an overlay is kDenied.
/// Threads: any. Lock order: none is held across a fetch.
class Image : public std::enable_shared_from_this<Image> {
 public:
  /// overlay may be null (read-only). reader outlives the image.
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
  void read_below(std::uint64_t offset, MutableBytes out);
  void read_ahead(std::uint64_t offset, std::size_t length);
  void write_block_edges(std::uint64_t offset, ByteView data);
  ChunkRef reference(std::uint64_t chunk, Priority priority);

  std::string name_;
  std::uint64_t size_;
  Sync<TreeRoot> base_;
  std::shared_ptr<ChunkReader> reader_;
  std::shared_ptr<Overlay> overlay_;
  ImageCounters counters_;
  std::mutex edge_mutex_;  // read-modify-write of blocks, for overlays with a granularity above 1
  struct Sequence {
    std::uint64_t next = 0;        // where a sequential read would go on
    std::uint64_t ahead = 0;       // chunks up to here were asked for
    std::uint64_t window = 0;      // chunks
  };
  Sync<Sequence> sequence_;
};

}  // namespace isr
