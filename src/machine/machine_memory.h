#pragma once

#include "fusefs/mount.h"
#include "session/session.h"
#include "vm/vm.h"

namespace isr {

/// The memory of a running guest. The changed pages are QEMU's own (private mapping) or the kernel holds them (shared
/// mapping); copy_ahead() and copy_changed() bring them to the session's memory image.
///
///   begin() → attach() → (copy_ahead() → copy_changed() → end_copy()), any number of times → end()
///
/// Errors:  kVm, kIo. After a failed copy the guest can run on, and another copy can begin.
/// Threads: one at a time; hindrance() and give_up() from any.
class MachineMemory {
 public:
  /// `file` is the path of the memory file in the mount.
  MachineMemory(Session& session, fs::path file);

  /// Begins with fresh memory, or with the suspended memory. Returns the file to mount.
  MountedFile begin(bool fresh);
  /// Sets the VM that has mapped the file. Until end() it must outlive every call.
  void attach(Vm& vm);
  /// To be called once the VM and the mount are gone.
  void end();

  /// While the guest runs: copies the pages that it has changed and those that it changes meanwhile, so that
  /// copy_changed() has little left to do. end_copy() must follow.
  void copy_ahead();
  /// Makes the image equal to the memory of the guest, which must be paused. Fetches nothing.
  void copy_changed();
  void end_copy() noexcept;
  /// Takes a sample of a paused guest's pages, to compare with the image.
  void sample(MemoryWitness& witness) const;

  /// Makes page faults read around the page, once a resumed guest has had time to touch the pages that it needs first.
  /// To be called a few times a second after guest_runs().
  void read_around_if_due();
  void guest_runs();
  /// Bytes of guest memory that QEMU has to itself. After a sync they still count, although the image has them.
  std::uint64_t changed_bytes() const;
  /// Bytes that the guest has given back to this host since begin().
  std::uint64_t given_back_bytes() const;

  /// Says why memory cannot be written now, so that the guest waits; empty if it can be written.
  std::string hindrance() const;
  /// Makes requests fail that wait for memory to be written. From then on memory cannot be kept.
  void give_up();

 private:
  void write_back_file() const;
  void copy(std::span<const MemoryRange> runs);

  Session& session_;
  fs::path file_;
  std::shared_ptr<Image> image_;      ///< mounted as file_
  std::shared_ptr<LiveMemory> live_;  ///< the overlay that image_ writes to
  Vm* vm_ = nullptr;
  Sync<std::shared_ptr<Endurance>> endurance_{std::make_shared<Endurance>()};  ///< of file_
  bool tracking_ = false;                    ///< the guest's writes are noted while memory is copied
  Sync<std::vector<MemoryRange>> left_out_;  ///< ranges that copy() skipped: the guest was giving them back
  std::optional<std::chrono::steady_clock::time_point> read_around_at_;
};

}  // namespace isr
