#pragma once

#include <map>
#include <optional>

#include "image/image.h"
#include "vm/guest_memory.h"

namespace isr {

/// QEMU's memory at a moment when the guest stood still, as the kernel shows it.
struct MemoryWitness {
  std::vector<MemoryRange> own;     ///< at least QEMU's own pages of that moment; may hold later ones
  std::vector<SampledPage> sample;  ///< pages of that moment
  std::uint64_t seed = 0;           ///< that chose them, so that a difference can be found again
};

/// The second line of defence before memory is kept or published: the sealed memory must agree with the witness. A
/// difference is a bug of ours, and the running guest still has the right bytes.
///
/// Errors: kBug, naming the page or the chunk.
class MemoryCheck {
 public:
  /// touched: as of LiveMemory, then or later.
  MemoryCheck(const MemoryWitness& witness, std::vector<bool> touched);

  /// Throws unless QEMU has an own page in the chunk, or the mount has written or zeroed a part of it.
  void require_change(std::uint64_t chunk) const;
  /// Calls require_change() for every chunk whose replacement differs.
  using Replacements = std::map<std::uint64_t, std::optional<ChunkRef>>;
  void compare(const Replacements& before, const Replacements& after) const;
  /// Throws unless `kept` has the sampled pages. Give it a reader that asks no network: pages that are not on this
  /// host are skipped.
  void compare(Image& kept) const;

 private:
  const MemoryWitness& witness_;
  std::vector<bool> may_differ_;  // by chunk
};

}  // namespace isr
