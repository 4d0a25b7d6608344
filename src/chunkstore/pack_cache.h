#pragma once

#include "chunkstore/pack_store.h"

namespace isr {

class PackCache : public PackStore {
 public:
  /// Evicts the excess, and at least `bytes` of objects that are not pinned, even when the index cannot be written.
  /// Returns the number of bytes freed.
  virtual std::uint64_t make_room(std::uint64_t bytes) = 0;
};
/// Opens a store that is not durable; see open_pack_store().
std::shared_ptr<PackCache> open_pack_cache(const std::filesystem::path& directory, const PackStoreOptions& options);

/// Error{kBug} when the bytes cannot be an object.
void check_object_size(ByteView object);

}  // namespace isr
