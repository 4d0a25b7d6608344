#pragma once

#include "image/live_memory.h"
#include "session/boot_prefetch.h"
#include "session/memory_check.h"

namespace isr {

/// The state of a running machine at the moment of a checkpoint, beside its memory and disks.
struct MachineMoment {
  VmStamp stamp;
  Bytes device_state;
  MemoryWitness memory;
};

/// The memory of a machine while it runs, and what is kept of it at a suspend. What the guest changes is in a scratch
/// layer over the session's image "memory", which a suspend brings to the journal with the devices.
///
///   begin() → begin_run() → the guest runs → keep() or drop() → abandon()
///
/// Errors:  of the file system; what follows a failure each function says.
/// Threads: one at a time, but image() and live() may be read and written meanwhile.
class MemoryImage {
 public:
  /// All of these must outlive this.
  MemoryImage(const ParcelEntry& parcel, StateFile& state, SessionImages& images, SessionObjects& objects,
              BootPrefetch& prefetch);
  MemoryImage(const MemoryImage&) = delete;
  MemoryImage& operator=(const MemoryImage&) = delete;

  // --- of a run --------------------------------------------------------------

  /// Begins fresh memory (all zeros) of vm.memory_bytes, or opens the suspended one,
  /// under a scratch layer. Returns the image to mount as memory.raw. Drops nothing.
  std::shared_ptr<Image> begin(bool fresh);
  /// That image, and the overlay that it writes to; nullptr before, and after abandon().
  std::shared_ptr<Image> image() const { return image_; }
  std::shared_ptr<LiveMemory> live() const { return live_; }
  /// The chunks that the guest has changed since begin(); nullopt when there is no such memory.
  std::optional<std::size_t> changed_chunks() const;
  /// Error{kIo} when this host has not so much room for what a guest will write.
  void require_room(std::uint64_t bytes) const;
  /// The guest is about to run on it: what was suspended is void now unless it is what
  /// goes on, and the phase becomes running; durable. After a failure nothing has changed.
  void begin_run(bool fresh);
  /// It did not come to run: the phase is again what it was, or checkedout after `fresh`. Where that cannot be
  /// written down, whoever opens the session next finds a crash.
  void undo_run(bool fresh) noexcept;
  /// The VM did not start, or is gone: the scratch layer is forgotten, the suspended memory below it is not.
  void abandon();
  /// The VM has stopped for a suspend: memory's changes and the device state go
  /// to the journal, durable; the phase becomes suspended. After a failure it is running; Error{kBug} when what would
  /// be kept is not what the witness says.
  void keep(const MachineMoment& moment);
  /// Of the suspended machine.
  Bytes device_state();
  /// Memory and device state of a machine that ran are void from now on; durable.
  void drop();

  // --- in a version of the running machine: Error{kBug} where there is none ------

  /// To be called for a running machine: the device state in the file is void then.
  void write_device_state(ByteView device_state);
  /// Freezes what the guest has changed; the overlay below is frozen by the caller.
  void freeze() { scratch().freeze(); }
  FrozenChanges& frozen() { return scratch(); }
  /// The frozen changes, sealed over the root `before`, gave `after`. Error{kBug} when that is not what the witness
  /// says. The guest, which goes on, has the right bytes then.
  void check_frozen(const MemoryWitness& witness, const TreeRoot& before, const TreeRoot& after) const;
  /// Once the overlay below has absorbed them.
  void drop_frozen() { scratch().drop_frozen(); }
  /// After a failure; does nothing when nothing is frozen, and logs what fails.
  void thaw();
  /// Image::adopt() of a running machine's memory around that of the image below, or only that.
  void adopt(const TreeRoot& published, const std::function<void()>& adopt_below);

 private:
  ScratchOverlay& scratch() const;
  void forget();

  const ParcelEntry& parcel_;
  StateFile& state_;
  SessionImages& images_;
  SessionObjects& objects_;
  BootPrefetch& prefetch_;
  std::shared_ptr<ScratchOverlay> scratch_;
  std::shared_ptr<LiveMemory> live_;  ///< above it
  std::shared_ptr<Image> image_;
};

}  // namespace isr
