#include "image/known_chunks.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace isr {

KnownChunks::KnownChunks(ChunkReader& reader, std::size_t most) : reader_(reader), most_(most) {}

std::uint64_t KnownChunks::prefix_of(const Sha256& digest) noexcept {
  std::uint64_t prefix = 0;
  std::memcpy(&prefix, digest.view().data(), sizeof prefix);
  return prefix;
}

void KnownChunks::add(const TreeRoot& tree) {
  try {
    for_each_leaf(reader_, tree, [&](std::uint64_t /*first*/, const ChunkRef& leaf) {
      PageData refs;
      try {
        refs = reader_.read_page(leaf, Priority::kPrefetch);
      } catch (const Error&) {
        return;
      }
      const auto page = static_cast<std::uint32_t>(pages_.size());
      pages_.push_back(leaf);
      for (std::uint32_t slot = 0; slot < refs->size() && chunks_.size() < most_; ++slot) {
        const ChunkRef& ref = (*refs)[slot];
        if (!ref.is_zero()) chunks_.push_back({prefix_of(ref.digest), page, slot});
      }
    });
  } catch (const Error&) {
    // A page higher up. The chunks below it are not known.
  }
  std::sort(chunks_.begin(), chunks_.end(), [](const Place& a, const Place& b) { return a.prefix < b.prefix; });
}

std::optional<ChunkRef> KnownChunks::find(const Sha256& digest) const {
  const std::uint64_t prefix = prefix_of(digest);
  auto it = std::lower_bound(chunks_.begin(), chunks_.end(), prefix,
                             [](const Place& place, std::uint64_t wanted) { return place.prefix < wanted; });
  for (; it != chunks_.end() && it->prefix == prefix; ++it) {
    try {
      const ChunkRef ref = (*reader_.read_page(pages_[it->page], Priority::kPrefetch))[it->slot];
      if (ref.digest == digest) return ref;
    } catch (const Error&) {
      continue;  // it is gone meanwhile
    }
  }
  return std::nullopt;
}

}  // namespace isr
