#pragma once

#include <map>
#include <optional>

#include "image/image.h"
#include "vm/guest_memory.h"

namespace isr {

/// What QEMU itself says of its memory at a moment when the guest stood still.
struct MemoryWitness {
  std::vector<MemoryRange> own;     ///< all that was QEMU's own then; maybe what has become so since
  std::vector<SampledPage> sample;  ///< of that moment
};

/// The second line of defence before memory is kept or published: what is kept must agree with the witness. Whatever
/// does not is a mistake of ours, and the guest still has the right bytes.
///
/// Errors: kBug, naming the page or the chunk.
class MemoryCheck {
 public:
  /// touched: as of LiveMemory, then or later.
  MemoryCheck(const MemoryWitness& witness, std::vector<bool> touched);

  /// A chunk in which QEMU has no page of its own, and of which nothing came through the mount, is as it was.
  void require_change(std::uint64_t chunk) const;
  /// The same of all chunks that replace those of a tree, before and after.
  using Replacements = std::map<std::uint64_t, std::optional<ChunkRef>>;
  void compare(const Replacements& before, const Replacements& after) const;
  /// Sampled pages are what `kept` gives for them. It should have a reader that asks no network: what is not on this
  /// host is left out.
  void compare(Image& kept) const;

 private:
  const MemoryWitness& witness_;
  std::vector<bool> may_differ_;  // by chunk
};

}  // namespace isr
