#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <optional>

#include "base/child_process.h"
#include "vm/process_memory.h"
#include "vm/vm.h"

namespace isr {

/// Sees to it that a QEMU maps its memory as wanted, by a library of ours that it
/// preloads, and knows what came of it: without the library it is kShared.
///
/// Errors:  kVm, kIo.
/// Threads: one at a time until find() has returned, then any; read_around() one at a time.
class GuestMemory : public VmMemory {
 public:
  /// Adds the library and its end of a channel to a launch, as its next descriptors; for kShared nothing.
  GuestMemory(std::filesystem::path file, MemoryMapping wanted, ChildOptions& launch);

  /// Finds the mapping, once QEMU has made it. Error{kVm} when there is none. Where the kernel shows
  /// nothing of QEMU it passes for kShared.
  void find(pid_t pid);
  MemoryMapping mapping() const noexcept override { return mapping_; }
  /// False: the kernel does not let us read what may be a private mapping, so that it could never be saved.
  bool is_readable() const;
  /// After a resume, a page fault of a private mapping reads 4 KiB: what the guest touches and nothing else.
  /// From now on it reads what lies around, too. False where that cannot be said.
  bool read_around() override;
  /// From now on the kernel notes what is written to a private mapping, so that a copy made meanwhile can be brought
  /// up to date. Returns what changed() would; nullopt where that cannot be: Linux before 6.7, or a mapping that is
  /// not private.
  std::optional<std::vector<MemoryRange>> begin_tracking() override;
  void end_tracking() override;
  /// Returns the pages of it that were written or appeared since begin_tracking() or the last call of this.
  std::vector<MemoryRange> take_written() const override;
  /// What the guest has changed and the file lacks, in runs of pages; offsets are the file's. Nothing in
  /// kShared: the kernel knows what the file lacks, and writes it back. Not while writes are tracked.
  std::vector<MemoryRange> changed() const override;
  /// Reads runs of that, on two threads, in pieces of up to kCopiedAtOnce bytes. Where QEMU does not hold still, old
  /// and new bytes may mix. What visit throws ends it.
  void visit(std::span<const MemoryRange> runs,
             const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const override;
  /// Of all that changed; QEMU must hold still.
  void visit_changed(const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const;
  /// Some pages that QEMU has in memory, in either mapping, drawn with `seed`; no more than `most`, none where the
  /// kernel shows nothing of QEMU. QEMU must hold still. Waits for no page.
  std::vector<SampledPage> sample(std::size_t most, std::uint64_t seed) const override;

 private:
  void find_mapping();
  bool order(char what);

  std::filesystem::path file_;
  MemoryMapping wanted_;
  MemoryMapping mapping_ = MemoryMapping::kShared;
  bool seen_ = true;  ///< the mapping, by us
  UniqueFd channel_;
  pid_t pid_ = -1;
  MemoryRange range_;
};

inline constexpr std::size_t kCopiedAtOnce = 1U << 20U;

}  // namespace isr
