#pragma once

#include "session/session_lock.h"

namespace isr {

/// The result of HeadPublisher::put().
struct PutHead {
  std::optional<StoredHead> head;  ///< nullopt when the version became a fork
  std::uint64_t version = 0;       ///< its number; for a fork, the number of the session's base
  std::string fork;                ///< name of the fork that keeps the version, "HOST-xxxx/N"; else empty
  bool is_lock_lost = false;       ///< a fork because another host has the lock, although it has not published
};

/// Puts the heads of a session into the repository: behind its base, or as a fork when another host has published first
/// or has the lock. Remembers the heads whose put had no answer: any of them may be in the repository, and is
/// recognised as this session's own when it is found there.
///
/// Errors:  as Chain; {kHistory} the repository's history is refused, with the ways out as hints; {kLocked} the
///          session's hold belongs to another host id; {kCorrupt} the fork that was kept does not open; {kIo} of the
///          state file.
/// Threads: one at a time.
class HeadPublisher {
 public:
  /// See PendingPublish::void_below.
  using VoidBelow = std::map<std::uint16_t, std::uint64_t>;

  /// All of these must outlive this.
  HeadPublisher(const Account& account, const ParcelEntry& parcel, StateFile& state, SessionLock& lock);
  HeadPublisher(const HeadPublisher&) = delete;
  HeadPublisher& operator=(const HeadPublisher&) = delete;

  /// Call before the journal is replayed. Looks in the repository for a publish that had no answer; if it happened,
  /// makes its version the session's base. Only logs {kTransient}, {kCorrupt} and {kHistory}: resolve() asks again
  /// before the next publish. Any other error is thrown, and the session does not open. Does nothing offline.
  void resolve_at_open();
  /// Does the same before a publish, but throws errors. Returns Error{kHistory} instead of throwing it when the history
  /// does not show whether a publish happened: the caller throws it only if it has changes to publish, so that a
  /// session whose changes were discarded can end.
  std::optional<Error> resolve(const std::stop_token& stop);
  /// Publishes a version whose objects are in the repository already. Writes the head's number and hash to the state
  /// file, puts the head and reads it back. When another host has published first or has the lock, keeps the head as a
  /// fork instead, and opens that fork as a check.
  PutHead put(const ParcelVersion& version, const VoidBelow& void_below, const std::stop_token& stop);

 private:
  void resolve(Chain& chain, const std::optional<StoredHead>& newest);
  std::string keep_fork(std::uint64_t n, ByteView blob, const std::stop_token& stop);
  void require_base(const StoredHead& newest, const std::stop_token& stop);

  const Account& account_;
  const ParcelEntry& parcel_;
  StateFile& state_;
  SessionLock& lock_;
};

}  // namespace isr
