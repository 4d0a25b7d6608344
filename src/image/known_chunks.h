#pragma once

#include <vector>

#include "image/tree.h"

namespace isr {

/// Finds the reference of content that some tree has already, so that it need not
/// be sealed again. 16 bytes of memory for each chunk known; the references
/// themselves are read again from their pages, of which `reader` keeps some.
///
/// Errors:  none: pages that cannot be read are passed over, the chunks below them are not known.
/// Threads: find() any, once all add() are done.
class KnownChunks {
 public:
  explicit KnownChunks(ChunkReader& reader, std::size_t most = std::size_t{4} << 20U);
  void add(const TreeRoot& tree);
  /// Chunks known; no more than `most`.
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
