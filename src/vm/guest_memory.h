#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <optional>

#include "base/child_process.h"
#include "vm/process_memory.h"
#include "vm/vm.h"

namespace isr {

/// Makes a QEMU map its memory as wanted, with a library of isr that it preloads, and finds out whether that worked.
/// Without the library the mapping is kShared.
///
/// Errors:  kVm, kIo.
/// Threads: one at a time until find() has returned, then any; read_around() one at a time.
class GuestMemory : public VmMemory {
 public:
  /// Adds the library and its end of a channel to a launch, as its next descriptors. Adds nothing for kShared.
  GuestMemory(std::filesystem::path file, MemoryMapping wanted, ChildOptions& launch);

  /// Finds the mapping, once QEMU has made it. Error{kVm} when there is none. When the kernel hides QEMU's memory, the
  /// mapping counts as kShared.
  void find(pid_t pid);
  MemoryMapping mapping() const noexcept override { return mapping_; }
  /// False when the kernel does not let us read the mapping. If it is private, it could not be saved.
  bool is_readable() const;
  /// After a resume, a page fault of a private mapping reads only the 4 KiB that the guest touches. From this call on
  /// it reads the surrounding pages, too. Returns false when that cannot be switched on.
  bool read_around() override;
  /// From this call on the kernel records writes to a private mapping, so that a copy made meanwhile can be brought up
  /// to date. Returns the result of changed(); nullopt when that is not possible: Linux before 6.7, or a mapping that
  /// is not private.
  std::optional<std::vector<MemoryRange>> begin_tracking() override;
  void end_tracking() override;
  /// Returns the pages that were written or appeared since begin_tracking() or the last call of this function.
  std::vector<MemoryRange> take_written() const override;
  /// The runs of pages that QEMU has to itself, as offsets in the file. After a sync they are still included, although
  /// the file has them. Empty for kShared, because the kernel writes changes back itself. Not allowed while writes are
  /// tracked.
  std::vector<MemoryRange> changed() const override;
  /// Reads these runs on two threads and calls visit with pieces of up to kCopiedAtOnce bytes. Unless QEMU is paused,
  /// old and new bytes may mix. An exception from visit ends it.
  void visit(std::span<const MemoryRange> runs,
             const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const override;
  /// visit() for everything in changed(). QEMU must be paused.
  void visit_changed(const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const;
  /// Draws up to `most` pages that QEMU has in memory, in either mapping, with `seed`. Empty when the kernel hides
  /// QEMU's memory. QEMU must be paused. Does not wait for absent pages.
  std::vector<SampledPage> sample(std::size_t most, std::uint64_t seed) const override;

 private:
  void find_mapping();
  bool order(char what);

  std::filesystem::path file_;
  MemoryMapping wanted_;
  MemoryMapping mapping_ = MemoryMapping::kShared;
  bool seen_ = true;  ///< whether the kernel shows us the mapping
  UniqueFd channel_;
  pid_t pid_ = -1;
  MemoryRange range_;
};

inline constexpr std::size_t kCopiedAtOnce = 1U << 20U;

}  // namespace isr
