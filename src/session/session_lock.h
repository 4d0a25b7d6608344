#pragma once

#include "session/held_lock.h"
#include "session/lease_keeper.h"
#include "session/state_file.h"

namespace isr {

/// The lock of a session in the repository, and its lease. The session's state names its hold.
///
/// Threads: one at a time; the lease is renewed on a thread of its own.
class SessionLock {
 public:
  /// All of these must outlive this.
  SessionLock(Account& account, const ParcelEntry& parcel, StateFile& state);
  SessionLock(const SessionLock&) = delete;
  SessionLock& operator=(const SessionLock&) = delete;

  /// Makes sure that this session has the lock before a guest runs on its contents. Takes a free lock again when the
  /// newest version is the session's base; with a reason, takes the lock in any case. Returns false when the repository
  /// does not answer and there is no reason, because the holder is unknown then.
  /// Errors:  {kLocked} another host has the lock, {kHistory} another host has published, both with the ways out as
  ///          hints; {kTransient}, {kOffline} with a reason when the repository does not answer.
  bool secure(const std::optional<std::string>& steal_reason, const std::stop_token& stop);
  /// Call before a head is put. Takes the lock again when it is free. Returns false when another host has it.
  /// Error{kLocked} when the session's hold belongs to another host id; else as ParcelLock.
  bool keep(const std::stop_token& stop);

  /// Renews the lease until end_lease(). Does nothing for a lock without a lease.
  void keep_lease(LeaseKeeper::OnLost on_lost);
  void end_lease() { lease_.reset(); }

  /// Writes the note that the lock is to be given back (held_lock.h); durable.
  void note() const;
  /// Gives the lock back. Call after note(), once the session's directory is gone.
  LockReturn give_back() const;

 private:
  LockRequest request() const;
  void take_over(const std::string& reason, const std::stop_token& stop);
  void resume_lease();
  std::string going_on() const;
  [[noreturn]] void refuse_lost(const LockRuling& ruling) const;
  [[noreturn]] void refuse_moved(const LockRuling& ruling) const;
  [[noreturn]] void refuse_passed_by(std::uint64_t newest) const;

  Account& account_;
  const ParcelEntry& parcel_;
  StateFile& state_;
  LeaseKeeper::OnLost on_lease_lost_;
  std::optional<LeaseKeeper> lease_;
};

}  // namespace isr
