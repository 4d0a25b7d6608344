#pragma once

#include "fusefs/mount.h"
#include "session/session.h"
#include "vm/vm.h"

namespace isr {

/// The memory of a guest while it runs. The VM has the changed pages to itself, or the kernel holds them for a shared
/// mapping; copy_ahead() and copy_changed() bring them to the session's memory image.
///
///   begin() → attach() → (copy_ahead() → copy_changed() → end_copy()), any number of times → end()
///
/// Errors:  kVm, kIo. After a failed copy the guest can go on, and another copy can begin.
/// Threads: one at a time; hindrance() and give_up() from any.
class MachineMemory {
 public:
  /// `file` is its path in the mount.
  MachineMemory(Session& session, fs::path file);

  /// Begins fresh memory, or the suspended one. Returns the file to mount.
  MountedFile begin(bool fresh);
  /// The VM that has mapped the file. It must live as long as anything but end() is called.
  void attach(Vm& vm);
  /// The VM and the mount are gone.
  void end();

  /// While the guest runs: copies what it has changed and what it changes meanwhile, so that copy_changed() has little
  /// left to do. end_copy() must follow.
  void copy_ahead();
  /// The guest must be paused: brings the image up to what the guest has. Fetches nothing.
  void copy_changed();
  void end_copy() noexcept;
  /// Some pages of a paused guest, to compare with the image.
  void sample(MemoryWitness& witness) const;

  /// Once a resumed guest has had time to touch what it needs first, page faults begin to read around. To be called a
  /// few times a second from guest_runs() on.
  void read_around_if_due();
  void guest_runs();
  /// Bytes that the guest has changed and the image lacks.
  std::uint64_t changed_bytes() const;
  /// Bytes that the guest has given back to this host since begin().
  std::uint64_t given_back_bytes() const;

  /// Why memory cannot be written now, so that the guest waits; empty when it can.
  std::string hindrance() const;
  /// Requests that wait for memory to be written fail. From then on memory cannot be kept.
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
  Sync<std::vector<MemoryRange>> left_out_;  ///< by the copy: the guest gave these back meanwhile
  std::optional<std::chrono::steady_clock::time_point> read_around_at_;
};

}  // namespace isr
