#pragma once

#include <atomic>
#include <mutex>

#include "image/chunk_reader.h"
#include "image/patch.h"

namespace isr {

/// The way in which a part of a chunk is read.
struct Access {
  bool whole_chunks = false;  ///< decodes the chunk at once, for callers that will read more of it
  Priority priority = Priority::kGuest;
  std::stop_token stop{};
};

/// The bytes of an image that its patches have, each byte where the newest patch has it. Immutable.
///
/// Size:    24 bytes for each run, beside the tables of its patches.
/// Threads: any.
class PatchIndex {
 public:
  /// A run that counts, and the patch that has it.
  struct Run {
    static constexpr std::uint32_t kZeros = ~0U;
    std::uint64_t offset = 0;
    std::uint64_t position = 0;  ///< in the patch
    std::uint32_t length = 0;
    std::uint32_t patch = 0;  ///< its position in PatchedTree::patches, or kZeros
    std::uint64_t end() const noexcept { return offset + length; }
  };
  /// One patch: its table, and the references of its chunks.
  struct Patch {
    PatchTable table;
    std::vector<ChunkRef> chunks;
  };

  using PatchPtr = std::shared_ptr<const Patch>;

  /// The newest first.
  explicit PatchIndex(std::vector<PatchPtr> patches);

  /// The runs that count in this range, cut to it, in order.
  std::vector<Run> find(std::uint64_t offset, std::uint64_t length) const;
  bool touches(std::uint64_t offset, std::uint64_t length) const;
  /// Fills `out` with the bytes of a run, or of a part of one. Errors as ChunkReader.
  void read(ChunkReader& reader, const Run& run, MutableBytes out, const Access& access = {}) const;
  const std::vector<Run>& runs() const noexcept { return runs_; }
  const std::vector<PatchPtr>& patches() const noexcept { return patches_; }
  /// The chunks of patches that hold a run.
  std::span<const ChunkRef> chunks_of(const Run& run) const;

 private:
  std::vector<Run>::const_iterator first_behind(std::uint64_t offset) const;

  std::vector<PatchPtr> patches_;
  std::vector<Run> runs_;  ///< by offset, disjoint
};

/// The content of an image, to be read below an overlay.
///
/// Threads: any.
class BaseContent {
 public:
  explicit BaseContent(const PatchedTree& content) : content_(content) {}
  /// Takes the tables of patches that `earlier` has read already.
  BaseContent(const PatchedTree& content, const BaseContent& earlier);

  const PatchedTree& tree() const noexcept { return content_; }
  /// The index of the patches. Fetches their tables when called first; a later call fetches nothing and takes no lock.
  /// Errors as ChunkReader, and then a later call tries again; kCorrupt also for a patch that is none.
  const PatchIndex& index(ChunkReader& reader, Priority priority, const std::stop_token& stop = {}) const;
  /// The objects that reading a chunk needs, none of them zero. Fetches as index(), and the pages of the tree.
  std::vector<ChunkRef> references(ChunkReader& reader, std::uint64_t chunk, Priority priority,
                                   const std::stop_token& stop) const;
  /// Reads bytes of one chunk. Where patches have all of them, the tree's chunk is not asked for. Errors as
  /// ChunkReader.
  void read(ChunkReader& reader, std::uint64_t offset, MutableBytes out, const Access& access) const;

 private:
  /// As content_.patches, null where not read.
  std::vector<PatchIndex::PatchPtr> known() const;

  PatchedTree content_;
  mutable std::mutex mutex_;                         ///< not held while tables are read
  mutable std::vector<PatchIndex::PatchPtr> known_;  ///< as known(), or empty; not used once there is an index
  mutable std::unique_ptr<const PatchIndex> owned_;
  mutable std::atomic<const PatchIndex*> index_{nullptr};
};

/// Reads bytes of one chunk.
void read_reference(ChunkReader& reader, const ChunkRef& ref, std::size_t within, MutableBytes out,
                    const Access& access);

}  // namespace isr
