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

/// Record s of a parcel's lock: signed JSON, docs/formats/lock.md. The highest s rules.
struct LockRecord {
  std::uint64_t s = 0;
  bool held = false;    ///< false: released
  std::string host;     ///< the host's name, for people
  std::string host_id;  ///< 32 hex digits, random, per host and user: who may renew
  LockMode mode = LockMode::kAttended;
  std::chrono::seconds lease{600};
  std::uint64_t base = 0;  ///< the version that the session started from
  WallTime since;          ///< when this holder first got it
  WallTime time;           ///< when this record was written, holder's clock
  std::string note;        ///< of a take-over: the reason
};

Bytes encode_lock_record(const LockRecord& record, const std::string& chain, const SigningKey& key);
/// Error{kCorrupt}: bad signature, form, another chain, another s.
LockRecord decode_lock_record(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t s);

/// Error{kLocked} with what the caller may want to phrase anew, knowing the parcel's name.
class LockedError : public Error {
 public:
  LockedError(const std::string& chain, LockRecord record, std::optional<std::chrono::seconds> age);
  const LockRecord& record() const noexcept { return record_; }  ///< the ruling one
  /// Since the holder last wrote, by the store's clock.
  std::optional<std::chrono::seconds> age() const noexcept { return age_; }

 private:
  LockRecord record_;
  std::optional<std::chrono::seconds> age_;
};
/// "3 minutes ago", in the largest unit that gives at least 2; "just now" below 5 s.
std::string describe_age(std::chrono::seconds age);

struct LockIdentity {
  std::string host;
  std::string host_id;
};

/// The lock of one parcel: records PARCEL/locks/%016d, each written by put_new,
/// so that two takers race for one name. The version number of the head, not
/// the lock, is what keeps two hosts from both publishing.
class ParcelLock {
 public:
  ParcelLock(BlobStorePtr store, std::string chain, SigningKey key, LockIdentity me);

  /// The ruling record with how long ago it was stored by the store's clock;
  /// nullopt: never locked. Skips nothing: a record that does not verify is
  /// Error{kCorrupt} naming it.
  struct Ruling {
    LockRecord record;
    std::optional<std::chrono::seconds> age;
    bool ours = false;
    bool expired = false;  ///< attended, and older than its lease (by the store's clock)
  };
  std::optional<Ruling> show();

  /// Takes a free, released, expired or own lock. LockedError naming host,
  /// since and last seen, with CLI hints, when another host holds it.
  LockRecord acquire(LockMode mode, std::uint64_t base);
  /// The same whoever holds it.
  LockRecord steal(LockMode mode, std::uint64_t base, const std::string& reason);
  /// A new record with a new time behind `mine`, or behind a renewal of it. Error{kLocked} when someone has taken it
  /// over.
  LockRecord renew(const LockRecord& mine);
  /// Ends our hold; nothing when it is no longer ours.
  void release(const LockRecord& mine);
  /// lock break: writes a released record over whoever holds it.
  void break_lock(const std::string& reason);
  /// Throws Error{kLocked} unless `mine`, or a renewal of it, still rules.
  void check(const LockRecord& mine);

 private:
  std::string locks() const { return chain_ + "/locks"; }
  std::optional<Ruling> read(std::uint64_t s);
  LockRecord fresh(LockMode mode, std::uint64_t base) const;
  /// False when s is taken, unless by these very bytes.
  bool put(const LockRecord& record);
  /// Puts `record` over whatever rules, readable or not.
  LockRecord put_over(LockRecord record);

  BlobStorePtr store_;
  std::string chain_;
  SigningKey key_;
  LockIdentity me_;
};

}  // namespace isr
