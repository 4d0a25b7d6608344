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
  /// Filled by newest(): hashes of the junk after this head.
  std::vector<Sha256> junk{};
};

/// Where the next head of a chain goes. The fields are those of Head.
struct HeadPlace {
  std::uint64_t n = 1;
  Sha256 prev{};
  std::vector<Sha256> skipped{};
};

/// A chain of heads in a store: ID/heads/%016d, ID/latest, ID/forks/NAME/%016d, where ID is the chain id
/// ("parcels/4f…", "users/alice/profile"). Everything that changes in a repository is written and checked this way.
class Chain {
 public:
  /// `kept` is the file in which this host keeps the newest head that it has accepted; empty: no head is kept.
  Chain(BlobStorePtr store, std::string id, PublicKey signer, std::shared_ptr<TrustStore> trust,
        std::filesystem::path kept = {});

  const std::string& id() const noexcept { return id_; }
  /// The newest head: starts from the head seen last, or from the hint, and goes forward while there is a next one.
  /// Checks every step (signature, prev, trust) and remembers the result. nullopt: the chain has no head, and none was
  /// seen before.
  /// Error{kCorrupt}: a version before a later one is missing. Error{kHistory}: the result is older than, or forked
  /// from, what was seen. Junk (a blob that is not a head of the signer) under the next number ends the walk with a
  /// warning, unless a later head names it. It is Error{kHistory} when nothing of the chain was seen before, because
  /// the junk may then replace any number of versions.
  std::optional<StoredHead> newest();
  /// The newest head that this host has seen or published, read without the store. nullopt: none is kept here.
  /// Error{kOffline} when the kept head is not the one in the trust store.
  std::optional<StoredHead> kept() const;
  /// The place of the head that follows `newest` (nullopt: the first). Error{kHistory} when there is junk that
  /// accept_older() has not accepted.
  HeadPlace next(const std::optional<StoredHead>& newest);
  /// Head n, with only its signature checked: the store may show a fork here. nullopt when absent or junk. Use
  /// ancestor() for a head that is certain to belong to the history.
  std::optional<StoredHead> read(std::uint64_t n);
  /// The head that `later` follows; nullopt when `later` is the first. Error{kHistory} when it is absent or not the one
  /// that `later` names.
  std::optional<StoredHead> before(const StoredHead& later);
  /// Head n of the history that ends with `newest`, found by walking down with before(). nullopt when n is 0 or above
  /// `newest`. Errors as before().
  std::optional<StoredHead> ancestor(StoredHead newest, std::uint64_t n);
  /// Publishes the new version n = head.n and returns its head, after it was read back and remembered and the hint was
  /// set. Also succeeds when the store already has these very bytes (a lost answer, a rerun). nullopt: another host, or
  /// another process of this one, published n first. Error{kHistory} when it does not follow what was seen, or when
  /// head n-1 in the store is gone or not the one that this head names.
  std::optional<StoredHead> publish(std::uint64_t n, ByteView blob);
  /// Makes a head of ours durable that was found in the repository: the process that put it may have been killed
  /// before. Does nothing where the repository cannot be written. Error{kTransient} when the head may not be durable.
  void make_durable(const StoredHead& ours);
  /// Keeps a head that lost the race, under forks/NAME/n. NAME is its host's name plus the first digits of its hash, so
  /// that a store cannot answer with another fork. Returns the fork's name in the form of forks(), after it was read
  /// back.
  std::string keep_fork(std::uint64_t n, ByteView blob);
  /// A kept fork whose signature and name match. nullopt when absent. Error{kUsage} when this is not the name of a
  /// fork.
  std::optional<StoredHead> read_fork(const std::string& fork);
  /// Checks the base of a fork: Error{kHistory} unless the history that ends with `newest` has a version n with this
  /// hash. n = 0: the fork has no base.
  void verify_base(StoredHead newest, std::uint64_t n, const Sha256& hash);
  /// Names of forks, e.g. "desk-42-3f2a/41"; nullopt when the store cannot list.
  std::optional<std::vector<std::string>> forks();
  /// For accept-older: makes version n (as the store has it) the newest trusted one. Junk after it may be skipped from
  /// then on; the result lists it.
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
/// Error{kUsage} unless it has the form of a name that keep_fork() gives.
void check_fork_name(const std::string& fork);

}  // namespace isr
