#pragma once

#include <functional>
#include <memory>
#include <string>

#include "host/config.h"
#include "repository/chain.h"
#include "repository/keybox.h"
#include "repository/lock.h"
#include "repository/repository_info.h"

namespace isr {

/// One parcel as the profile describes it: its secret names and keys.
struct ParcelEntry {
  std::string id;  ///< 32 hex digits, random
  std::string name;
  std::map<std::uint32_t, SecretKey> epoch_keys;
  std::string chain() const { return "parcels/" + id; }
  std::uint32_t epoch() const { return epoch_keys.rbegin()->first; }
};

/// The profile chain's payload, JSON; docs/formats/profile.md.
struct Profile {
  std::vector<ParcelEntry> parcels;
};

/// A user's place in one repository, opened with their keys: what every command
/// that touches a parcel starts from.
///
/// On this host state/pins/ says which repository each URL stands for, so that
/// another id cannot make us forget what was seen. state/REPOSITORY-ID/USER/ has
/// keybox (the newest one seen, for logging in offline), device-key (sealed under
/// a key that the keybox holds), trust.db, heads/ (the newest head seen of
/// each chain, for looking at it offline), parcels/ID/ (sessions).
struct Account {
  Paths paths;
  RepositoryEntry entry;
  RepositoryInfo info;
  BlobStorePtr store;  ///< null when offline
  UserKeys keys;
  SecretKey device_key;
  LockIdentity host;
  std::shared_ptr<TrustStore> trust;
  fs::path state_directory;  ///< state/REPOSITORY-ID/USER
  StoreOptions store_options{};
  Config config{};  ///< as the command resolved it, also in a daemon

  std::chrono::seconds lease() const { return config.get_seconds("lock.lease"); }  ///< of attended locks
  /// Bytes a second of what is published or imported; 0: none.
  std::uint64_t upload_limit() const { return config.get_bytes("upload.limit"); }
  bool offline() const { return store == nullptr; }
  /// Throws Error{kOffline} unless online; names what for.
  BlobStore& online(const std::string& what) const;
  /// Makes an offline account online. Error{kHistory} as open_pinned_store(), else {kOffline}; {kCancelled} on stop.
  void go_online(const std::stop_token& stop = {});
  /// Error{kOffline} unless online. Its calls end with Error{kCancelled} on stop; so do those of lock().
  Chain chain(const std::string& id, std::stop_token stop = {}) const;
  /// Chain::newest(), or offline Chain::kept().
  std::optional<StoredHead> newest_head(const std::string& chain, std::stop_token stop = {}) const;
  ParcelLock lock(const ParcelEntry& parcel, std::stop_token stop = {}) const;
  fs::path parcel_directory(const ParcelEntry& parcel) const { return state_directory / "parcels" / parcel.id; }
};

/// The host id that locks show: of the device key, this machine, and where on it the state directory lies.
std::string host_id_of(const Key& device_key, std::string_view machine_id, std::string_view state_directory);
/// The base of a lock record: the version that its holder starts from.
LockBase base_of(const ParcelEntry& parcel, const StoredHead& head);

/// Gives the passphrase when it is needed, or throws Error{kDenied}.
using PasswordSource = std::function<SecretText()>;
/// Gives the passphrase or the recovery key.
using SecretSource = std::function<KeyboxSecret()>;

struct OpenOptions {
  bool offline = false;     ///< do not touch the network
  bool use_keyring = true;  ///< false: the password was given, so it is asked for and checked
  Config config{};          ///< of the account
  StoreOptions store{};     ///< time-outs
};
/// Keys come from the kernel keyring (isr login), else from `password` and the
/// keybox: the repository's newest, or the local copy when it cannot be reached.
/// A repository that does not answer makes the account offline, once, with a warning.
/// Error{kNotFound} no repository there, {kDenied} no such user or wrong password,
/// {kHistory} another repository than the one that was there before, {kOffline}
/// never used on this host and not reachable now.
Account open_account(const Paths& paths, const RepositoryEntry& entry, const PasswordSource& password,
                     const OpenOptions& options);
/// From keys that another process of ours handed over (the session daemon).
Account open_account_with_keys(const Paths& paths, const RepositoryEntry& entry, const UserKeys& keys,
                               const OpenOptions& options);
/// The store that `entry` names. Error{kHistory} when it is another repository than `pinned`, {kCancelled} on stop.
BlobStorePtr open_pinned_store(const RepositoryEntry& entry, const RepositoryInfo& pinned, const StoreOptions& options,
                               const std::stop_token& stop = {});
/// repo init and add: from now on this repository is what entry.url stands for on this host.
void pin_repository(const Paths& paths, const RepositoryEntry& entry, const RepositoryInfo& info);
/// The repository that was pinned, or seen first, there. nullopt: never used on this host.
std::optional<RepositoryInfo> pinned_repository(const Paths& paths, const RepositoryEntry& entry);
/// repo init: pin, keys, keybox, empty profile. The recovery key is the caller's, who keeps it before
/// there is anything that it opens. Error{kUsage} when the user exists.
void create_user(const Paths& paths, const RepositoryEntry& entry, BlobStore& store, std::string_view passphrase,
                 const Key& recovery);
/// passwd: puts the next keybox and keeps a copy of it; no data is written anew. `current`
/// is asked for and proved before `next` is. Returns the keys. Errors as open_account(),
/// {kOffline} the repository cannot be reached, {kForked} somebody else changed it meanwhile.
UserKeys change_password(const Paths& paths, const RepositoryEntry& entry, const SecretSource& current,
                         const PasswordSource& next, const OpenOptions& options);

Bytes encode_profile(const Profile& profile);
/// Error{kCorrupt}: ids, names, epochs and counts are checked.
Profile parse_profile(ByteView payload);
/// The newest profile (offline: the newest seen here).
Profile read_profile(Account& account);
/// Reads, changes and publishes the profile; again when another host was first.
void change_profile(Account& account, const std::function<void(Profile&)>& change, const std::stop_token& stop = {});
/// Error{kNotFound} with "did you mean".
ParcelEntry find_parcel(const Profile& profile, const std::string& name);
/// 1..64 of letters, digits, '.', '_', '-', beginning with a letter or digit; no
/// trailing dot, no Windows device name. Error{kUsage}, the name escaped.
void check_parcel_name(const std::string& name);

/// Under which the kernel's keyring has the user's keys.
std::string keyring_label(const RepositoryInfo& info, const std::string& user);

}  // namespace isr
