#pragma once

#include <map>
#include <shared_mutex>

#include "image/scratch_overlay.h"

namespace isr {

/// The overlay of a running guest's memory, as its mount uses it. A hole that is punched here is the only sign that
/// the guest gave memory back. A page that is not QEMU's own is no sign: after a resume most pages are the version's.
///
/// copy() brings QEMU's own pages (of a private mapping) to the scratch layer while the guest runs. A copy never
/// overwrites a hole that was punched after QEMU's page was read.
///
/// Granularity and errors: as the scratch layer.
/// Threads: any; begin_copy() and end_copy() not beside copy().
class LiveMemory : public Overlay {
 public:
  LiveMemory(std::shared_ptr<ScratchOverlay> scratch, std::uint64_t size);

  std::size_t granularity() const override { return scratch_->granularity(); }
  void write(std::uint64_t offset, ByteView data) override;
  void zero(std::uint64_t offset, std::uint64_t length) override;
  std::vector<Extent> read(std::uint64_t offset, MutableBytes out) override { return scratch_->read(offset, out); }
  std::optional<ChunkRef> replaced(std::uint64_t chunk) override { return scratch_->replaced(chunk); }
  void flush() override { scratch_->flush(); }

  /// From now on holes are recorded. QEMU has dropped the pages of earlier holes once it has answered a QMP command.
  void begin_copy();
  void end_copy();
  /// Writes whole blocks that were read from QEMU since begin_copy(). Skips and returns the parts that lie in holes
  /// recorded since then: QEMU may be about to drop them, or may have written them again. Zeros take no space.
  std::vector<Extent> copy(std::uint64_t offset, ByteView bytes);

  /// By chunk: whether the mount has written or zeroed any of it.
  std::vector<bool> touched() const;

 private:
  void touch(std::uint64_t offset, std::uint64_t length);
  void remember_hole(std::uint64_t begin, std::uint64_t end);
  void write_blocks(std::uint64_t offset, ByteView bytes);

  std::shared_ptr<ScratchOverlay> scratch_;
  /// Shared in copy(), exclusive elsewhere. Taken before the scratch layer's mutexes.
  mutable std::shared_mutex mutex_;
  bool copying_ = false;
  std::map<std::uint64_t, std::uint64_t> holes_;  ///< since begin_copy(): begin → end, apart from each other
  std::vector<bool> touched_;
};

}  // namespace isr
