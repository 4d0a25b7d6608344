#pragma once

#include <map>
#include <optional>

#include "image/image.h"
#include "vm/guest_memory.h"

namespace isr {

/// QEMU's memory as the kernel shows it, at a moment when the guest was paused.
struct MemoryWitness {
  std::vector<MemoryRange> own;     ///< at least QEMU's own pages of that moment; may hold later ones
  std::vector<SampledPage> sample;  ///< some pages with their contents at that moment
  std::uint64_t seed = 0;           ///< of the random choice of the sample, to reproduce a difference
};

/// A second line of defence before memory is kept or published: checks that the sealed memory agrees with the witness.
/// A difference is a bug in isr; the running guest still has the right bytes.
///
/// Errors: kBug, naming the page or the chunk.
class MemoryCheck {
 public:
  /// `touched` is LiveMemory::touched() at the moment of the witness or later.
  MemoryCheck(const MemoryWitness& witness, std::vector<bool> touched);

  /// Throws unless QEMU has an own page in the chunk, or the mount has written or zeroed a part of it.
  void require_change(std::uint64_t chunk) const;
  /// Calls require_change() for every chunk whose replacement differs.
  using Replacements = std::map<std::uint64_t, std::optional<ChunkRef>>;
  void compare(const Replacements& before, const Replacements& after) const;
  /// Throws unless `kept` has the contents of the sampled pages. Skips pages that are not on this host, so `kept`
  /// should have a reader that uses no network.
  void compare(Image& kept) const;

 private:
  const MemoryWitness& witness_;
  std::vector<bool> may_differ_;  // by chunk
};

}  // namespace isr
