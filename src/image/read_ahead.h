#pragma once

#include <array>
#include <cstdint>

namespace isr {

/// Chunks to fetch in addition to those being read: [first, end).
struct AheadRange {
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  bool sequential = false;  ///< the read continues earlier ones
};

/// Detects sequential readers among the reads of an image and says what to fetch ahead for them. There may be several
/// readers, and the kernel may reorder the reads of each. Random reads never look sequential. Pure; not thread-safe.
class ReadAhead {
 public:
  /// Call for a read of `length` bytes (not 0) at `offset` in an image of `chunk_count` chunks. Fetches at most `most`
  /// chunks ahead of a sequential reader.
  AheadRange on_read(std::uint64_t offset, std::uint64_t length, std::uint64_t chunk_count, std::uint64_t most);

 private:
  struct Stream {
    std::uint64_t next = 0;    // in bytes: where a sequential read continues
    std::uint64_t ahead = 0;   // the chunks before this one were requested
    std::uint64_t window = 0;  // chunks; 0: only one read was seen
    std::uint64_t used = 0;    // in units of clock_
  };
  Stream* find(std::uint64_t offset);
  Stream& oldest();

  std::array<Stream, 8> streams_;
  std::uint64_t clock_ = 0;
};

}  // namespace isr
