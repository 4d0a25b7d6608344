#pragma once

#include "chunkstore/pack_store.h"

namespace isr {

class PackCache : public PackStore {
 public:
  /// Evicts what is too much, and at least `bytes` of objects that are not pinned, also when the index cannot be
  /// written. Returns the bytes of what went.
  virtual std::uint64_t make_room(std::uint64_t bytes) = 0;
};
/// open_pack_store() of what is not durable.
std::shared_ptr<PackCache> open_pack_cache(const std::filesystem::path& directory, const PackStoreOptions& options);

/// Error{kBug} for what cannot be an object.
void check_object_size(ByteView object);

}  // namespace isr
