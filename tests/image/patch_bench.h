#pragma once

#include <random>

#include "image/patch.h"

namespace isr::test {

/// Sizes of the images that the tests of patches read.
inline constexpr std::uint64_t kPatchedChunks = 4;
inline constexpr std::uint64_t kPatchedSize = kPatchedChunks * kChunkSize - 5000;  // the last chunk is not whole

inline std::uint64_t below(std::mt19937_64& random, std::uint64_t limit) { return random() % limit; }

template <class Container>
auto at(Container& bytes, std::uint64_t offset) {
  return bytes.begin() + static_cast<std::ptrdiff_t>(offset);
}

/// Gives each run its place in the data.
inline PatchTable table_of(std::vector<PatchRun> runs, std::vector<ChunkRun> cleared = {}) {
  PatchTable table{0, std::move(runs), std::move(cleared)};
  for (PatchRun& run : table.runs) {
    if (run.is_zeros) continue;
    run.position = table.data_bytes;
    table.data_bytes += run.length;
  }
  return table;
}

inline PatchTable random_table(std::mt19937_64& random) {
  PatchTable table;
  for (std::uint64_t at = below(random, 20'000); at < kPatchedSize;) {
    const std::uint64_t length =
        std::min(1 + below(random, below(random, 4) == 0 ? 200'000 : 3'000), kPatchedSize - at);
    const bool is_zeros = below(random, 4) == 0;
    table.runs.push_back({at, static_cast<std::uint32_t>(length), is_zeros, is_zeros ? 0 : table.data_bytes});
    if (!is_zeros) table.data_bytes += length;
    at += length + (below(random, 3) == 0 ? 0 : below(random, 50'000));
  }
  for (std::uint64_t chunk = 0; chunk < kPatchedChunks; ++chunk) {
    if (below(random, 4) == 0) table.cleared.push_back({chunk, 1});
  }
  return table;
}

}  // namespace isr::test
