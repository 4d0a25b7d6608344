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
  /// result remembered. nullopt: no head at all, and none seen before.
  /// Error{kHistory} when older than, or forked from, what was seen.
  std::optional<StoredHead> newest();
  /// Without the store: the newest head that this host has seen or published. nullopt: none is kept
  /// here. Error{kOffline} when what is kept is another one than the trust store says.
  std::optional<StoredHead> kept() const;
  /// Head n, checked by signature only: it may be a fork that the store shows.
  /// nullopt when absent. ancestor() reads one that belongs to the history.
  std::optional<StoredHead> read(std::uint64_t n);
  /// The head that `later` follows; nullopt when `later` is the first. Error{kHistory}
  /// when it is absent or not the one that `later` names.
  std::optional<StoredHead> before(const StoredHead& later);
  /// Head n of the history that ends with `newest`, by walking before() down to it;
  /// nullopt when n is 0 or above `newest`. Errors as before().
  std::optional<StoredHead> ancestor(StoredHead newest, std::uint64_t n);
  /// Publishes head.n = n of a new version, and returns it. nullopt: another host
  /// published n first. The head was read back, is remembered, and the hint set;
  /// so it is when the store has these very bytes already (a lost answer, a rerun).
  /// Error{kHistory} when it is not the next after what was seen, or when head
  /// n-1 in the store is gone or not the one that this one names.
  std::optional<StoredHead> publish(std::uint64_t n, ByteView blob);
  /// Keeps a head that lost the race, under forks/NAME/n; NAME is its host's name plus the first digits of its hash,
  /// so that a store cannot give one fork for another. Returns the fork's name as forks() gives it; it was read back
  /// then.
  std::string keep_fork(std::uint64_t n, ByteView blob);
  /// A kept fork: signed, and the one that the name means. nullopt when absent. Error{kUsage}: no fork's name.
  std::optional<StoredHead> read_fork(const std::string& fork);
  /// Error{kHistory} unless `prev` is head n-1 of the history that ends with `newest`: what a fork n must follow.
  void verify_follows(StoredHead newest, std::uint64_t n, const Sha256& prev);
  /// Names of forks, e.g. "desk-42-3f2a/41"; nullopt when the store cannot list.
  std::optional<std::vector<std::string>> forks();
  /// accept-older: makes version n (as the store has it) the newest trusted one.
  StoredHead accept_older(std::uint64_t n, const std::string& reason);

 private:
  std::string heads() const { return id_ + "/heads"; }
  StoredHead decode(Bytes blob, std::uint64_t n) const;
  std::uint64_t hinted();
  StoredHead read_seen(const Seen& seen);
  std::optional<StoredHead> first_sight(std::uint64_t hint);
  StoredHead walk_forward(StoredHead at);
  std::optional<StoredHead> find_newest(const std::optional<Seen>& seen);
  void check_follows(const StoredHead& ours, const std::optional<Seen>& seen);
  bool is_published(std::uint64_t n, ByteView blob);
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
