#pragma once

#include "chunkstore/pack_store.h"

namespace isr {

/// open_pack_store() of what is not durable.
std::shared_ptr<PackStore> open_pack_cache(const std::filesystem::path& directory, const PackStoreOptions& options);

/// Error{kBug} for what cannot be an object.
void check_object_size(ByteView object);

}  // namespace isr
