#pragma once

#include "image/live_memory.h"
#include "session/boot_prefetch.h"
#include "session/memory_check.h"

namespace isr {

/// The state of a running machine at the moment of a suspend or checkpoint, without the contents of its memory and
/// disks.
struct MachineMoment {
  VmStamp stamp;
  Bytes device_state;
  MemoryWitness memory;
};

/// The memory of a running machine, and the memory that a suspend keeps. Changes of the guest reach a scratch layer
/// over the session's memory image: with a shared mapping when the kernel writes them back, with a private one at a
/// suspend or sync. A suspend writes them to the journal, together with the device state.
///
///   begin() → begin_run() → the guest runs → keep() or drop() → abandon()
///
/// Errors:  {kIo} of the file system; each function says what holds after a failure.
/// Threads: one at a time, but the objects that image() and live() return may be read and written meanwhile.
class MemoryImage {
 public:
  /// All of these must outlive this.
  MemoryImage(const ParcelEntry& parcel, StateFile& state, SessionImages& images, SessionObjects& objects,
              BootPrefetch& prefetch);
  MemoryImage(const MemoryImage&) = delete;
  MemoryImage& operator=(const MemoryImage&) = delete;

  // --- a run -----------------------------------------------------------------

  /// Makes fresh memory (all zeros) of vm.memory_bytes, or opens the suspended memory, and puts a scratch layer over
  /// it. Returns the image to mount as memory.raw. The suspended memory stays until begin_run().
  std::shared_ptr<Image> begin(bool fresh);
  /// The image that begin() returned, and the overlay that it writes to; nullptr before begin(), and after abandon()
  /// and drop().
  std::shared_ptr<Image> image() const { return image_; }
  std::shared_ptr<LiveMemory> live() const { return live_; }
  /// The number of chunks that differ from those of the base: in the scratch layer and in the overlay below it. nullopt
  /// when image() is nullptr.
  std::optional<std::size_t> changed_chunks() const;
  /// Error{kIo} when the session's disk has less than `bytes` free for the changes of the guest.
  void require_room(std::uint64_t bytes) const;
  /// Call just before the guest runs. Sets the phase to running; if `fresh`, the suspended memory and device state
  /// become void. Durable. After a failure nothing has changed.
  void begin_run(bool fresh);
  /// Call when the guest did not run after begin_run(). Sets the phase back to suspended, or to checkedout if `fresh`.
  /// When the state file cannot be written, it still says running, so the next process that opens the session finds a
  /// crash.
  void undo_run(bool fresh) noexcept;
  /// Call when the VM did not start or has ended. Drops the scratch layer, and keeps the suspended memory below it.
  void abandon();
  /// Call when the VM is stopped for a suspend. Writes the changes of memory and the device state to the journal, and
  /// sets the phase to suspended; durable. After a failure the phase is still running. Error{kBug} when the memory to
  /// keep differs from the witness.
  void keep(const MachineMoment& moment);
  /// The device state of the suspended machine.
  Bytes device_state();
  /// Makes memory and device state void, because the machine is off; durable. After a failure in phase running they are
  /// void nonetheless, and the phase is checkedout; in another phase nothing has changed.
  void drop();

  // --- a version of the running machine; Error{kBug} when no machine runs ---------

  /// Replaces the device state, without a change of the state file. Call only in phase running: after a crash the
  /// device state is then void anyway.
  void write_device_state(ByteView device_state);
  /// Freezes the changes in the scratch layer. The caller freezes the overlay below it.
  void freeze() { scratch().freeze(); }
  FrozenChanges& frozen() { return scratch(); }
  /// Checks the content `after`, which the frozen changes gave when they were sealed over `before`. Error{kBug} when it
  /// differs from the witness; the guest, which goes on, still has the right bytes.
  void check_frozen(const MemoryWitness& witness, const PatchedTree& before, const SealedImage& after) const;
  /// Undoes freeze() after a failure. Does nothing when nothing is frozen. Only logs its own failures.
  void thaw();
  /// Makes the running machine's memory image adopt the published content, drops the frozen changes, which the base has
  /// then, and calls `adopt_below`, which adopts it in the image below (Image::adopt()). Without a running machine,
  /// only calls `adopt_below`.
  void adopt(const PatchedTree& published, const std::function<void()>& adopt_below);

 private:
  ScratchOverlay& scratch() const;
  void forget();

  const ParcelEntry& parcel_;
  StateFile& state_;
  SessionImages& images_;
  SessionObjects& objects_;
  BootPrefetch& prefetch_;
  std::shared_ptr<ScratchOverlay> scratch_;
  std::shared_ptr<LiveMemory> live_;  ///< over scratch_
  std::shared_ptr<Image> image_;
};

}  // namespace isr
