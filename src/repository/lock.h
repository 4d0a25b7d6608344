#pragma once

#include "base/clock.h"
#include "base/crypto.h"
#include "base/error.h"
#include "repository/blob_store.h"

namespace isr {

enum class LockMode {
  kAttended,  ///< has a lease, renewed after a third of it
  kCheckout,  ///< does not expire: for travelling offline
};

/// The version that the holder's work is based on.
struct LockBase {
  std::string chain;    ///< for a branch's first lock: the chain that it comes from; else empty
  std::uint64_t n = 0;  ///< 0 with a zero hash: no version
  Sha256 hash;          ///< of that version's head
};

/// Record s of a parcel's lock, or renewal r of it: signed JSON, docs/formats/lock.md. The record with the highest s is
/// valid.
struct LockRecord {
  std::uint64_t s = 0;
  std::uint64_t r = 0;  ///< 0: the record that took the lock, or gave it back
  std::string hold;     ///< 32 hex digits, random for each hold: entitles to renew, release and publish
  bool held = false;    ///< false: released
  std::string host;     ///< the host's name, shown to users
  std::string host_id;  ///< 32 hex digits, per host, user and state directory
  LockMode mode = LockMode::kAttended;
  std::chrono::seconds lease{600};
  LockBase base;
  WallTime since;    ///< when this hold began
  WallTime time;     ///< when this record was written, by the holder's clock
  std::string note;  ///< for a take-over: the reason
};

Bytes encode_lock_record(const LockRecord& record, const std::string& chain, const SigningKey& key);
/// Error{kCorrupt} for a bad signature or form, another chain, or another place than `s` and `r`.
LockRecord decode_lock_record(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t s,
                              std::uint64_t r = 0);
/// 32 hex digits for a new hold.
std::string random_hold();

/// The record of a parcel's lock that is valid now, and how it concerns this host.
struct LockRuling {
  LockRecord record;  ///< the newest renewal, where there is one
  /// Time since the holder last wrote, by the store's clock.
  std::optional<std::chrono::seconds> age;
  bool ours = false;     ///< held by this host
  bool expired = false;  ///< attended, and older than its lease (by the store's clock)
  /// True when this host holds the lock as `hold`.
  bool is_hold(const std::string& hold) const { return ours && record.hold == hold; }
  /// True when the lock is held as `hold`, but under another host id: the state directory of the hold was moved, or is
  /// a copy.
  bool is_moved_hold(const std::string& hold) const { return record.held && !ours && record.hold == hold; }
};

/// Error{kLocked} with the facts, so that a caller that knows the parcel's name can phrase it anew.
class LockedError : public Error {
 public:
  LockedError(const std::string& chain, LockRuling ruling);
  const LockRuling& ruling() const noexcept { return ruling_; }

 private:
  LockRuling ruling_;
};
/// "3 minutes ago", in the largest unit that gives at least 2; "just now" below 5 s.
std::string describe_age(std::chrono::seconds age);

struct LockIdentity {
  std::string host;
  std::string host_id;
};

/// A request for a lock: the id of the new hold, its mode, and the version that the work is based on.
struct LockRequest {
  std::string hold;
  LockMode mode = LockMode::kAttended;
  LockBase base;
};

/// The lock of one parcel: records PARCEL/locks/%016d and, for each record s, its renewals below PARCEL/renewals/s/.
/// Records are written with put_new, so of two takers one wins. The lock does not keep two hosts from both publishing;
/// the version number of the head does.
///
/// A record that does not verify uses up its number. It is skipped with a warning. This class does not keep apart two
/// processes of one host: the caller must hold the parcel's lock file.
class ParcelLock {
 public:
  /// `lease`: for the attended locks that it takes.
  ParcelLock(BlobStorePtr store, std::string chain, SigningKey key, LockIdentity me,
             std::chrono::seconds lease = std::chrono::seconds(600));

  /// nullopt: the parcel was never locked. Error{kCorrupt}: too many of the newest records do not verify.
  std::optional<LockRuling> show();

  /// Takes a free lock, or one that this host holds. LockedError, with CLI hints, when another host holds it, even when
  /// its lease has run out.
  LockRecord acquire(const LockRequest& wanted);
  /// As acquire(), but does nothing when `wanted.hold` already has the lock.
  LockRecord keep(const LockRequest& wanted);
  /// As acquire(), but takes the lock from any holder.
  LockRecord steal(const LockRequest& wanted, const std::string& reason);
  /// Writes a new renewal after `mine`, or after a renewal of it. LockedError when `mine.hold` no longer has the lock.
  LockRecord renew(const LockRecord& mine);
  /// Ends the hold; does nothing when it does not have the lock. Returns false, and the lock stays, when the hold
  /// belongs to another host id (is_moved_hold()).
  bool release(const std::string& hold);
  /// For lock break: writes a released record over the valid one, readable or not.
  void break_lock(const std::string& reason);

 private:
  /// The valid record, and the number for the next record.
  struct Found {
    std::optional<LockRuling> ruling;
    std::uint64_t next = 1;
    bool unreadable = false;  ///< too many of the newest records do not verify
  };
  std::string locks() const { return chain_ + "/locks"; }
  std::string renewals(std::uint64_t s) const;
  Found look();
  Found look_readable();
  std::optional<LockRuling> read(std::uint64_t s);
  void read_renewals(LockRuling& ruling);
  std::optional<LockRuling> read_at(const std::string& name, std::uint64_t s, std::uint64_t r);
  LockRecord fresh(const LockRequest& wanted) const;
  /// Returns false when its name is taken by other bytes.
  bool put(const LockRecord& record);
  /// Puts `record` over the valid one, readable or not.
  LockRecord put_over(LockRecord record);

  BlobStorePtr store_;
  std::string chain_;
  SigningKey key_;
  LockIdentity me_;
  std::chrono::seconds lease_;
};

}  // namespace isr
