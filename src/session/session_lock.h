#pragma once

#include "session/held_lock.h"
#include "session/lease_keeper.h"
#include "session/state_file.h"

namespace isr {

/// The lock of a session in the repository, and its lease. Which hold is ours the state says.
///
/// Threads: one at a time; the lease is renewed on one of its own.
class SessionLock {
 public:
  /// All of these must outlive this.
  SessionLock(Account& account, const ParcelEntry& parcel, StateFile& state);
  SessionLock(const SessionLock&) = delete;
  SessionLock& operator=(const SessionLock&) = delete;

  /// Makes sure that the lock is ours before a guest runs on what is here: takes it again where it is free and the
  /// newest version is the base, and in any case with a reason. False when the repository does not answer: nobody
  /// knows. Error{kLocked} another host has it, {kHistory} another host has published; with the ways out as hints.
  bool secure(const std::optional<std::string>& steal_reason, const std::stop_token& stop);
  /// Before a head is put: the lock is ours, or is taken again where it is free. False: another host has it.
  /// Error{kLocked} when our hold has moved; as ParcelLock.
  bool keep(const std::stop_token& stop);

  /// Renews the lease until end_lease(); nothing of a lock without one.
  void keep_lease(LeaseKeeper::OnLost on_lost);
  void end_lease() { lease_.reset(); }

  /// Writes down that the lock is to be given back; durable.
  void note() const;
  /// After note(), and once the session's directory is gone.
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
