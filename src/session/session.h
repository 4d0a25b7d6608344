#pragma once

#include "base/file_lock.h"
#include "session/publisher.h"
#include "session/rehearsal_images.h"
#include "session/session_faces.h"
#include "session/session_stats.h"

namespace isr {

/// A parcel checked out on this host (checkout.h): its journal, its images, its base. Used by the session daemon, which
/// adds the mount and the VM, and by commands that publish without a daemon. Only one process at a time can open a
/// session, because this class holds the directory's lock file.
///
/// Owns its parts. Each part knows only parts to the right of it:
///
///     Publisher ─┬─► HeadPublisher ──► SessionLock ───────────────────────────┐
///                ├─► MemoryImage ──► BootPrefetch ─┐                          ├─► StateFile
///                ├─► Settler ──────────────────────┴─► SessionImages ─┬───────┘
///                └─► BootPackMaker ───────────────────────────────────┴─► SessionObjects
///
/// Errors:  {kVm} when another process still has the session after 3 s.
/// Threads: one at a time, but the images may be read and written meanwhile, and interrupt_reads() and cancel() may be
///          called at any time.
class Session {
 public:
  /// Opens a session that check_out() made or that a crash left, and replays its journal. The phase running becomes
  /// checkedout, because memory is worthless after a crash. The account must outlive this.
  Session(Account& account, const ParcelEntry& parcel);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const SessionState& state() const noexcept { return state_.now(); }
  const SessionImages& images() const noexcept { return images_; }
  LockFace& lock() noexcept { return lock_; }
  PrefetchFace& prefetch() noexcept { return prefetch_; }
  MemoryFace& memory() noexcept { return memory_; }
  Publisher& publisher() noexcept { return publisher_; }

  std::optional<RehearsalImages> rehearsal_images() const { return isr::rehearsal_images(state_, images_, objects_); }
  /// Sets the network of the machine; the next version has it.
  void keep_network(NetworkMode mode);
  /// Sets the network back after a start that failed. Changes the state in memory only; write_state_if_behind() brings
  /// it to the file.
  void take_back_network(NetworkMode mode);
  /// See SessionImages::discard().
  void discard() { images_.discard(); }
  /// Call after a change of the state could not be written; see StateFile::make_certain().
  void make_state_certain() { state_.make_certain(); }
  /// See StateFile::write_if_behind().
  void write_state_if_behind() { state_.write_if_behind(); }
  /// See Settler::settle_if_due().
  void settle_if_due(const std::stop_token& stop = {}) { settler_.settle_if_due(stop); }
  /// Ends the session after a publish: removes its directory and releases the lock. Error{kVm} unless the last publish
  /// covers everything in the session, {kIo} of the file system; after either the session still exists. Calls `before`
  /// just before the directory is removed; from then on another session may begin.
  LockReturn end(const std::function<void()>& before = {});

  /// Ends reads that wait for the network, because the VM is being killed.
  void interrupt_reads();
  /// As above, and later reads that would wait fail at once.
  void cancel();

  SessionStats stats() const;

 private:
  ParcelEntry parcel_;
  FileLock flock_;
  StateFile state_;
  SessionObjects objects_;
  LockFace lock_;
  HeadPublisher heads_;
  SessionImages images_;
  Settler settler_;
  PrefetchFace prefetch_;
  MemoryFace memory_;
  Publisher publisher_;
};

}  // namespace isr
