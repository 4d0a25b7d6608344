#pragma once

#include <filesystem>

#include "repository/blob_store.h"
#include "repository/head.h"
#include "repository/trust_store.h"

namespace isr {

struct StoredHead {
  Head head;
  Sha256 hash;
  Bytes blob;
  /// Of newest(): hashes of what lies behind it and is no head.
  std::vector<Sha256> junk{};
};

/// Where the next head of a chain goes: what Head says of itself.
struct HeadPlace {
  std::uint64_t n = 1;
  Sha256 prev{};
  std::vector<Sha256> skipped{};
};

/// A chain of heads in a store: ID/heads/%016d, ID/latest, ID/forks/NAME/%016d,
/// where ID is the chain id ("parcels/4f…", "users/alice/profile"). One way to
/// write and one to check, for all that changes.
class Chain {
 public:
  /// `kept` is the file in which this host keeps the newest head that it has accepted; empty: none is kept.
  Chain(BlobStorePtr store, std::string id, PublicKey signer, std::shared_ptr<TrustStore> trust,
        std::filesystem::path kept = {});

  const std::string& id() const noexcept { return id_; }
  /// The newest head: from what was seen, or from the hint, forward while there
  /// is a next one. Every step is checked (signature, prev, trust) and the
  /// result remembered. nullopt: no head at all, and none seen before. Error{kCorrupt}: a version before a later one
  /// is missing.
  /// Error{kHistory} when older than, or forked from, what was seen. Junk under
  /// the next number (it is no head of the signer) ends the walk with a warning,
  /// unless a head behind it names it; Error{kHistory} when nothing was seen of the
  /// chain before, for then it may stand in the place of any number of versions.
  std::optional<StoredHead> newest();
  /// Without the store: the newest head that this host has seen or published. nullopt: none is kept
  /// here. Error{kOffline} when what is kept is another one than the trust store says.
  std::optional<StoredHead> kept() const;
  /// The place of the head that follows `newest` (nullopt: the first). Error{kHistory} when junk lies there that
  /// accept_older() has not accepted.
  HeadPlace next(const std::optional<StoredHead>& newest);
  /// Head n, checked by signature only: it may be a fork that the store shows.
  /// nullopt when absent or junk. ancestor() reads one that belongs to the history.
  std::optional<StoredHead> read(std::uint64_t n);
  /// The head that `later` follows; nullopt when `later` is the first. Error{kHistory}
  /// when it is absent or not the one that `later` names.
  std::optional<StoredHead> before(const StoredHead& later);
  /// Head n of the history that ends with `newest`, by walking before() down to it;
  /// nullopt when n is 0 or above `newest`. Errors as before().
  std::optional<StoredHead> ancestor(StoredHead newest, std::uint64_t n);
  /// Publishes head.n = n of a new version, and returns it. nullopt: another host, or another process of this one,
  /// published n first. The head was read back, is remembered, and the hint set;
  /// so it is when the store has these very bytes already (a lost answer, a rerun).
  /// Error{kHistory} when it is not the next after what was seen, or when head
  /// n-1 in the store is gone or not the one that this one names.
  std::optional<StoredHead> publish(std::uint64_t n, ByteView blob);
  /// Makes a head of ours that was found durable in the repository: its put may have been killed before that. Nothing
  /// where the repository cannot be written. Error{kTransient} when it is not known to be durable.
  void make_durable(const StoredHead& ours);
  /// Keeps a head that lost the race, under forks/NAME/n; NAME is its host's name plus the first digits of its hash,
  /// so that a store cannot give one fork for another. Returns the fork's name as forks() gives it; it was read back
  /// then.
  std::string keep_fork(std::uint64_t n, ByteView blob);
  /// A kept fork: signed, and the one that the name means. nullopt when absent. Error{kUsage}: no fork's name.
  std::optional<StoredHead> read_fork(const std::string& fork);
  /// For the base of a fork: Error{kHistory} unless the history that ends with `newest` has a version n with this
  /// hash. n = 0: the fork follows nothing.
  void verify_base(StoredHead newest, std::uint64_t n, const Sha256& hash);
  /// Names of forks, e.g. "desk-42-3f2a/41"; nullopt when the store cannot list.
  std::optional<std::vector<std::string>> forks();
  /// accept-older: makes version n (as the store has it) the newest trusted one. Junk that lies behind it may be
  /// skipped from then on; it is in the answer.
  StoredHead accept_older(std::uint64_t n, const std::string& reason);

 private:
  std::string heads() const { return id_ + "/heads"; }
  StoredHead decode(Bytes blob, std::uint64_t n) const;
  std::uint64_t hinted();
  std::uint64_t newest_below(std::uint64_t n);
  StoredHead read_seen(const Seen& seen);
  std::optional<StoredHead> first_sight(std::uint64_t hint);
  struct Place;
  Place look(std::uint64_t n);
  std::optional<StoredHead> step(StoredHead& at);
  std::vector<std::uint64_t> numbers_behind(std::uint64_t n, std::uint64_t hint);
  std::optional<StoredHead> step_over_gap(const StoredHead& at, std::uint64_t hint);
  void find_junk(StoredHead& at);
  [[noreturn]] void refuse_junk(std::uint64_t n, std::uint64_t newest) const;
  [[noreturn]] void refuse_endless_junk(const StoredHead& at) const;
  [[noreturn]] void refuse_missing(std::uint64_t n, std::uint64_t later) const;
  void check_step(const StoredHead& at, const StoredHead& next) const;
  void check_skipped(const StoredHead& at, const StoredHead& next,
                     const std::vector<std::optional<Sha256>>& between) const;
  void report_junk(const StoredHead& newest, const std::optional<Seen>& seen) const;
  StoredHead walk_forward(StoredHead at, std::uint64_t hint);
  std::optional<StoredHead> find_newest(const std::optional<Seen>& seen);
  void check_follows(const StoredHead& ours, const std::optional<Seen>& seen);
  std::optional<Sha256> seen_at(const std::optional<Seen>& seen, std::uint64_t n);
  void accept_published(const StoredHead& ours);
  bool is_published(const StoredHead& ours);
  Seen seen_of(const StoredHead& stored) const;
  void accept(const StoredHead& stored);
  void keep(const StoredHead& stored) const;

  BlobStorePtr store_;
  std::string id_;
  PublicKey signer_;
  std::shared_ptr<TrustStore> trust_;
  std::filesystem::path kept_;
};

std::string head_name(const std::string& chain, std::uint64_t n);
/// Error{kUsage} unless it looks like a name that keep_fork() gives.
void check_fork_name(const std::string& fork);

}  // namespace isr
