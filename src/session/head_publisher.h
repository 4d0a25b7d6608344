#pragma once

#include "session/session_lock.h"

namespace isr {

/// What became of a version's head.
struct PutHead {
  std::optional<StoredHead> head;  ///< nullopt: another host was first
  std::uint64_t version = 0;       ///< its number, or the base's
  std::string fork;                ///< "HOST-xxxx/N" when another host was first; the version is kept there
  bool is_lock_lost = false;       ///< it is a fork because another host has the lock; it has not published
};

/// Puts the heads of a session: behind its base, or as forks where another host was first. Knows which of its heads
/// had no answer: any of them may be in the repository, and is ours when it turns up.
///
/// Errors:  as Chain; {kHistory} when the repository's history is refused, with the ways out as hints; {kLocked} our
/// hold
///          has moved; {kCorrupt} the fork that was kept does not open; {kIo} of the state file.
/// Threads: one at a time.
class HeadPublisher {
 public:
  /// As PendingPublish says.
  using VoidBelow = std::map<std::uint16_t, std::uint64_t>;

  /// All of these must outlive this.
  HeadPublisher(const Account& account, const ParcelEntry& parcel, StateFile& state, SessionLock& lock);
  HeadPublisher(const HeadPublisher&) = delete;
  HeadPublisher& operator=(const HeadPublisher&) = delete;

  /// Before the journal is replayed: when a publish without an answer did happen, the state says so from now on. Logs
  /// {kTransient}, {kCorrupt} and {kHistory}, and leaves the question open; after any other error the session does not
  /// open. Does nothing offline.
  void resolve_at_open();
  /// As above, before a publish. Returns the refusal when the history does not tell whether one happened: work that
  /// was discarded since can be given up nonetheless.
  std::optional<Error> resolve(const std::stop_token& stop);
  /// The objects of the version are in the repository. Writes down which head it will be, puts it and reads it back;
  /// or keeps it as a fork, and opens what was kept.
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
