#pragma once

#include "base/file_lock.h"
#include "session/publisher.h"
#include "session/rehearsal_images.h"
#include "session/session_faces.h"
#include "session/session_stats.h"

namespace isr {

/// A parcel checked out on this host (checkout.h): its journal, its images, its base. Used by
/// the session daemon (which adds the mount and the VM) and by commands that
/// publish without one. One process at a time: it holds the directory's lock file.
///
/// It owns the parts and makes them known to each other, from left to right only:
///
///     Publisher ─┬─► HeadPublisher ──► SessionLock ───────────────────────────┐
///                ├─► MemoryImage ──► BootPrefetch ─┐                          ├─► StateFile
///                ├─► Settler ──────────────────────┴─► SessionImages ─┬───────┘
///                └─► BootPackMaker ───────────────────────────────────┴─► SessionObjects
///
/// Errors:  kVm "already in use here" when another process holds it, and does not end within 3 s.
/// Threads: one at a time, but what the images gave may be read and written meanwhile; interrupt_reads() and cancel()
///          any time.
class Session {
 public:
  /// Opens what check_out() made, or what a crash left: replays the journal. A
  /// running phase becomes checkedout: what a crash leaves of memory is worthless. The account must outlive this.
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
  /// Sets it in memory only, after a start that failed; write_state_if_behind() brings it to the file.
  void take_back_network(NetworkMode mode);
  /// As SessionImages says.
  void discard() { images_.discard(); }
  /// After a failure to write down a change, as StateFile says.
  void make_state_certain() { state_.make_certain(); }
  /// As StateFile::write_if_behind() says.
  void write_state_if_behind() { state_.write_if_behind(); }
  /// As Settler says.
  void settle_if_due(const std::stop_token& stop = {}) { settler_.settle_if_due(stop); }
  /// After a publish: takes the directory away and releases the lock. Error{kVm} unless all that is here is in what was
  /// published last, or an error of the file system: the session is still there then. `before` is called just before
  /// the directory goes: from then on another session may begin.
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
