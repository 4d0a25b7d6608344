#pragma once

#include <functional>

#include "chunkstore/pack_index.h"

namespace isr {

/// How many bytes of objects must be evicted. `free_bytes` is the free space of the file system, if known. A limit of 0
/// means no limit.
std::uint64_t bytes_to_evict(std::uint64_t used_bytes, std::optional<std::uint64_t> free_bytes,
                             std::uint64_t limit_bytes, std::uint64_t min_free_bytes);

/// Frees the space of records that are no longer in the index: deletes packs that are empty and have no writer, and
/// punches holes into the others. `forget_if_empty` removes a pack from the index and returns whether it could; the
/// pack is locked meanwhile. Failures cost only space, and are logged.
void free_space(const fs::path& packs_directory, std::vector<PackIndex::Entry> removed,
                const std::function<bool(std::int64_t pack)>& forget_if_empty);

}  // namespace isr
