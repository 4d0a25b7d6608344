#pragma once

#include <map>
#include <shared_mutex>

#include "image/scratch_overlay.h"

namespace isr {

/// The overlay of a running guest's memory as its mount sees it: what comes through here was written or given back
/// by the guest. A hole that is punched here is the only sign that memory was given back: that QEMU does not have a
/// page to itself says nothing, since after a resume most pages are those below.
///
/// Where QEMU has changes to itself, copy() brings them to the scratch layer below while the guest goes on. A copy
/// never comes over a hole that was punched after it was read.
///
/// Granularity and errors: as the scratch layer.
/// Threads: any; begin_copy() and end_copy() while nobody copies.
class LiveMemory : public Overlay {
 public:
  LiveMemory(std::shared_ptr<ScratchOverlay> scratch, std::uint64_t size);

  std::size_t granularity() const override { return scratch_->granularity(); }
  void write(std::uint64_t offset, ByteView data) override;
  void zero(std::uint64_t offset, std::uint64_t length) override;
  std::vector<Extent> read(std::uint64_t offset, MutableBytes out) override { return scratch_->read(offset, out); }
  std::optional<ChunkRef> replaced(std::uint64_t chunk) override { return scratch_->replaced(chunk); }
  void flush() override { scratch_->flush(); }

  /// From now on holes are remembered. What was given back before is QEMU's no more once it has answered anything.
  void begin_copy();
  void end_copy();
  /// Writes what was read from QEMU since begin_copy(), whole blocks. Leaves out and returns what has been given back
  /// since then: QEMU may be about to drop it, or may have it anew. Pages of zeros take no space.
  std::vector<Extent> copy(std::uint64_t offset, ByteView bytes);

  /// By chunk: whether anything of it was written or given back through here.
  std::vector<bool> touched() const;

 private:
  void touch(std::uint64_t offset, std::uint64_t length);
  void remember_hole(std::uint64_t begin, std::uint64_t end);
  void write_blocks(std::uint64_t offset, ByteView bytes);

  std::shared_ptr<ScratchOverlay> scratch_;
  /// Shared by who copies; who gives back, or looks, has it alone. Taken before the scratch layer's.
  mutable std::shared_mutex mutex_;
  bool copying_ = false;
  std::map<std::uint64_t, std::uint64_t> holes_;  ///< since begin_copy(): begin → end, apart from each other
  std::vector<bool> touched_;
};

}  // namespace isr
