#pragma once

#include <vector>

#include "image/tree.h"

namespace isr {

/// The content of an image: a tree, and the patches that lie over it. A patch holds runs of bytes that changed since,
/// and is itself stored as an image.
struct PatchedTree {
  PatchedTree() = default;
  PatchedTree(TreeRoot of, std::vector<TreeRoot> over = {}) : tree(of), patches(std::move(over)) {}

  TreeRoot tree;
  std::vector<TreeRoot> patches;  ///< the newest first

  std::uint64_t size() const noexcept { return tree.size; }
  bool is_zero() const noexcept { return tree.root.is_zero() && patches.empty(); }
  friend bool operator==(const PatchedTree&, const PatchedTree&) = default;
};
/// Tells contents of one size apart: without patches the digest of the tree's root.
Sha256 digest_of(const PatchedTree& content);

inline constexpr std::size_t kMaxPatches = 64;  ///< of one image
inline constexpr std::size_t kMaxPatchRuns = 1U << 18U;
inline constexpr std::size_t kMaxClearedRuns = 1U << 18U;
inline constexpr std::uint32_t kMaxPatchRunLength = 1U << 30U;
inline constexpr std::uint64_t kMaxPatchData = 1U << 30U;
inline constexpr std::size_t kPatchFooterSize = 32;
inline constexpr std::uint64_t kMaxPatchSize =
    kMaxPatchData + (kMaxPatchRuns + kMaxClearedRuns) * 16 + kPatchFooterSize;

/// Bytes of the patched image that a patch replaces.
struct PatchRun {
  std::uint64_t offset = 0;  ///< in the patched image
  std::uint32_t length = 0;
  bool is_zeros = false;       ///< zeros, which the patch does not store
  std::uint64_t position = 0;  ///< of the bytes in the patch; 0 for zeros
  std::uint64_t end() const noexcept { return offset + length; }
  friend bool operator==(const PatchRun&, const PatchRun&) = default;
};

/// The index of a patch, which follows its data. docs/formats/patch.md.
struct PatchTable {
  std::uint64_t data_bytes = 0;
  std::vector<PatchRun> runs;     ///< by offset, disjoint; their data is in the same order
  std::vector<ChunkRun> cleared;  ///< by number, disjoint: chunks in which older patches no longer count
};

/// The table with its footer.
Bytes encode_patch_table(const PatchTable& table);
/// The length of the table with its footer, from the last kPatchFooterSize bytes of a patch of `patch_size` bytes.
/// Error{kCorrupt}: they are not a footer, a count is out of bounds, or the length does not match.
std::size_t patch_table_size(ByteView footer, std::uint64_t patch_size);
/// Error{kCorrupt}: as patch_table_size(); a run is empty, reaches beyond `image_size` or over the next one; the data
/// has another length than the runs.
PatchTable parse_patch_table(ByteView table, std::uint64_t patch_size, std::uint64_t image_size);

}  // namespace isr
