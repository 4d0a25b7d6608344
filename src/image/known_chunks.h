#pragma once

#include <vector>

#include "image/tree.h"

namespace isr {

/// Finds the reference of content that some tree already has, so that the content need not be sealed again. Takes 16
/// bytes of memory for each known chunk. The references themselves are read again from their pages; `reader` keeps some
/// of those.
///
/// Errors:  none: unreadable pages are skipped, and the chunks below them are not known.
/// Threads: find() any, once all add() are done.
class KnownChunks {
 public:
  explicit KnownChunks(ChunkReader& reader, std::size_t most = std::size_t{4} << 20U);
  void add(const TreeRoot& tree);
  /// The number of known chunks, `most` at most.
  std::size_t size() const noexcept { return chunks_.size(); }
  std::optional<ChunkRef> find(const Sha256& digest) const;

 private:
  struct Place {
    std::uint64_t prefix;  ///< of the digest
    std::uint32_t page;
    std::uint32_t slot;
  };
  static std::uint64_t prefix_of(const Sha256& digest) noexcept;

  ChunkReader& reader_;
  std::size_t most_;
  std::vector<ChunkRef> pages_;
  std::vector<Place> chunks_;  // by prefix
};

}  // namespace isr
