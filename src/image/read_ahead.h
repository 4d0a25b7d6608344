#pragma once

#include <array>
#include <cstdint>

namespace isr {

/// Chunks to fetch besides the ones that are being read: [first, end).
struct AheadRange {
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  bool sequential = false;  ///< the read continues others
};

/// Finds the sequential readers among the reads of an image and says what to
/// fetch ahead for them. Several may read at once, and the kernel may pass the
/// reads of one of them on in another order. Random reads never look sequential.
/// Pure; not thread-safe.
class ReadAhead {
 public:
  /// A read of `length` bytes (not 0) at `offset` in an image of `chunk_count` chunks.
  /// A sequential reader gets `most` chunks ahead at most.
  AheadRange on_read(std::uint64_t offset, std::uint64_t length, std::uint64_t chunk_count, std::uint64_t most);

 private:
  struct Stream {
    std::uint64_t next = 0;    // bytes: where a sequential read goes on
    std::uint64_t ahead = 0;   // chunks before this one were asked for
    std::uint64_t window = 0;  // chunks; 0: only one read seen
    std::uint64_t used = 0;    // by clock_
  };
  Stream* find(std::uint64_t offset);
  Stream& oldest();

  std::array<Stream, 8> streams_;
  std::uint64_t clock_ = 0;
};

}  // namespace isr
