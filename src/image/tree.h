#pragma once

#include <functional>
#include <map>
#include <span>

#include "image/chunk_reader.h"

namespace isr {

/// The largest image: 16 TiB.
inline constexpr std::uint64_t kMaxImageSize = 16ULL << 40U;

constexpr std::uint64_t chunk_count(std::uint64_t size_bytes) { return (size_bytes + kChunkSize - 1) / kChunkSize; }
/// The number of levels of pages above the chunks, at least 1: one page covers 32 MiB, two levels 8 GiB, three 2 TiB.
unsigned tree_levels(std::uint64_t size_bytes);

/// An immutable image: its size and the reference to its top page (zero: all zeros).
struct TreeRoot {
  std::uint64_t size = 0;
  ChunkRef root;
  friend bool operator==(const TreeRoot&, const TreeRoot&) = default;
};

/// The reference of chunk `index`; fetches the pages on the way. Error{kCorrupt} when the tree does not match its size.
ChunkRef find_chunk(ChunkReader& reader, const TreeRoot& tree, std::uint64_t index,
                    Priority priority = Priority::kGuest, const std::stop_token& stop = {});

/// A run of chunks.
struct ChunkRun {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t end() const noexcept { return first + count; }
  friend bool operator==(const ChunkRun&, const ChunkRun&) = default;
};

/// Applies changed references to a tree. Seals the pages above them again and passes them to `emit` (children before
/// parents); shares all other pages. `zeros` are chunks that become all zero, in order, disjoint from each other and
/// from `changes`; whole subtrees of them are not even read.
using EmitObject = std::function<void(const SealedObject&)>;
TreeRoot update_tree(ChunkReader& reader, const TreeRoot& base, const std::map<std::uint64_t, ChunkRef>& changes,
                     const Key& domain_secret, const EmitObject& emit, std::span<const ChunkRun> zeros = {});

/// Calls visit(index, before, after) for every chunk whose reference differs, in order. Both trees must have the same
/// size. Reads only pages that differ.
using VisitDifference = std::function<void(std::uint64_t, const ChunkRef&, const ChunkRef&)>;
void for_each_difference(ChunkReader& reader, const TreeRoot& before, const TreeRoot& after,
                         const VisitDifference& visit);

/// Calls visit(first, page) for every lowest page that is not all zero, in order, with the number of its first chunk
/// and its reference. The page itself is not read.
void for_each_leaf(ChunkReader& reader, const TreeRoot& tree,
                   const std::function<void(std::uint64_t, const ChunkRef&)>& visit,
                   Priority priority = Priority::kPrefetch, const std::stop_token& stop = {});

/// Calls visit(index, ref) for every chunk that is not zero, in order.
void for_each_chunk(ChunkReader& reader, const TreeRoot& tree,
                    const std::function<void(std::uint64_t, const ChunkRef&)>& visit,
                    Priority priority = Priority::kPrefetch, const std::stop_token& stop = {});

}  // namespace isr
