#pragma once

#include "base/clock.h"
#include "base/crypto.h"
#include "base/error.h"
#include "repository/blob_store.h"

namespace isr {

enum class LockMode {
  kAttended,  ///< a lease, renewed at a third of it
  kCheckout,  ///< no expiry: for travelling offline
};

/// The version that the holder's work stands on.
struct LockBase {
  std::string chain;    ///< of a branch's first lock: where it comes from; empty for none
  std::uint64_t n = 0;  ///< 0 and no hash: none
  Sha256 hash;          ///< of that version's head
};

/// Record s of a parcel's lock, or renewal r of it: signed JSON, docs/formats/lock.md. The highest s rules.
struct LockRecord {
  std::uint64_t s = 0;
  std::uint64_t r = 0;  ///< 0: the record that took the lock, or gave it back
  std::string hold;     ///< 32 hex digits, random for each hold: who may renew, release, publish
  bool held = false;    ///< false: released
  std::string host;     ///< the host's name, for people
  std::string host_id;  ///< 32 hex digits, per host, user and state directory
  LockMode mode = LockMode::kAttended;
  std::chrono::seconds lease{600};
  LockBase base;
  WallTime since;    ///< when this hold began
  WallTime time;     ///< when this record was written, holder's clock
  std::string note;  ///< of a take-over: the reason
};

Bytes encode_lock_record(const LockRecord& record, const std::string& chain, const SigningKey& key);
/// Error{kCorrupt}: bad signature, form, another chain, another place than `s` and `r`.
LockRecord decode_lock_record(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t s,
                              std::uint64_t r = 0);
/// 32 hex digits for a new hold.
std::string random_hold();

/// What rules a parcel's lock.
struct LockRuling {
  LockRecord record;  ///< the newest renewal, where there is one
  /// Since the holder last wrote, by the store's clock.
  std::optional<std::chrono::seconds> age;
  bool ours = false;     ///< held by this host
  bool expired = false;  ///< attended, and older than its lease (by the store's clock)
  /// Held by this host as `hold`.
  bool is_hold(const std::string& hold) const { return ours && record.hold == hold; }
  /// Held as `hold` under another host id: the state directory that has the hold was moved, or is a copy.
  bool is_moved_hold(const std::string& hold) const { return record.held && !ours && record.hold == hold; }
};

/// Error{kLocked} with what the caller may want to phrase anew, knowing the parcel's name.
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

/// A request for a lock: the id of the new hold, its mode, and the version that the work starts from.
struct LockRequest {
  std::string hold;
  LockMode mode = LockMode::kAttended;
  LockBase base;
};

/// The lock of one parcel: records PARCEL/locks/%016d, each written by put_new,
/// so that two takers race for one name, and renewals of record s below
/// PARCEL/renewals/s/. The version number of the head, not the lock, is what keeps
/// two hosts from both publishing.
///
/// A record that does not verify uses up its number and is passed over, with a warning.
/// Two processes of one host are not kept apart here: whoever takes the lock has the parcel's lock file.
class ParcelLock {
 public:
  /// `lease`: of the attended locks that it takes.
  ParcelLock(BlobStorePtr store, std::string chain, SigningKey key, LockIdentity me,
             std::chrono::seconds lease = std::chrono::seconds(600));

  /// nullopt: never locked. Error{kCorrupt}: too many records that do not verify lie in front.
  std::optional<LockRuling> show();

  /// Takes a free lock, or one that this host holds. LockedError, with CLI hints, when another
  /// host holds it, also when its lease has run out.
  LockRecord acquire(const LockRequest& wanted);
  /// As acquire(), but does nothing when `wanted.hold` has the lock.
  LockRecord keep(const LockRequest& wanted);
  /// As acquire(), whoever holds it.
  LockRecord steal(const LockRequest& wanted, const std::string& reason);
  /// A new renewal behind `mine`, or behind a renewal of it. LockedError when `mine.hold` does not have the lock any
  /// more.
  LockRecord renew(const LockRecord& mine);
  /// Ends the hold; nothing when it does not have the lock. False: it has it under another host id (is_moved_hold()),
  /// so it stays.
  bool release(const std::string& hold);
  /// lock break: writes a released record over whatever rules, readable or not.
  void break_lock(const std::string& reason);

 private:
  /// What rules, and the number that the next record may try.
  struct Found {
    std::optional<LockRuling> ruling;
    std::uint64_t next = 1;
    bool unreadable = false;  ///< too many records in front that do not verify
  };
  std::string locks() const { return chain_ + "/locks"; }
  std::string renewals(std::uint64_t s) const;
  Found look();
  Found look_readable();
  std::optional<LockRuling> read(std::uint64_t s);
  void read_renewals(LockRuling& ruling);
  std::optional<LockRuling> read_at(const std::string& name, std::uint64_t s, std::uint64_t r);
  LockRecord fresh(const LockRequest& wanted) const;
  /// False when its name is taken, unless by these very bytes.
  bool put(const LockRecord& record);
  /// Puts `record` over whatever rules, readable or not.
  LockRecord put_over(LockRecord record);

  BlobStorePtr store_;
  std::string chain_;
  SigningKey key_;
  LockIdentity me_;
  std::chrono::seconds lease_;
};

}  // namespace isr
