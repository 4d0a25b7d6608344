// Opening an account is two questions with several answers each: is the
// repository there (else we are offline, if this host knows it), and where do
// the keys come from (another process, the keyring, a keybox). What is kept
// below the state directory is made in finish(), after the keys were proved.
#include "account/account.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/log.h"
#include "base/whole_file.h"
#include "host/keyring.h"

namespace isr {
namespace {

constexpr std::size_t kMaxKeyboxSize = 64U << 10U;
constexpr std::size_t kMaxSmallFile = 4096;

bool is_unreachable(const Error& error) {
  return error.kind() == ErrorKind::kTransient || error.kind() == ErrorKind::kOffline;
}

/// The result of trying to reach a repository.
struct Reached {
  BlobStorePtr store;  ///< null: offline
  RepositoryInfo info;
};

fs::path pin_file(const Paths& paths, const RepositoryEntry& entry) {
  const Sha256 digest = sha256(as_bytes(canonical_store_url(entry.url)));
  return paths.state / "pins" / to_hex(digest.view().first(16));
}

[[noreturn]] void refuse_other_repository(const RepositoryEntry& entry, const RepositoryInfo& pinned,
                                          const RepositoryInfo& found) {
  throw Error(
      ErrorKind::kHistory,
      fmt::format("{} is now another repository ({}) than this host knows there ({})", entry.name,
                  found.id.substr(0, 12), pinned.id.substr(0, 12)),
      {"what this host has seen of the old one would be forgotten; if that is meant:",
       fmt::format("isr repo rm {} && isr repo add {} {} --user {}", entry.name, entry.name, entry.url, entry.user)});
}

Reached reach_online(const Paths& paths, const RepositoryEntry& entry, const std::optional<RepositoryInfo>& pinned,
                     const OpenOptions& options) {
  if (pinned) return {open_pinned_store(entry, *pinned, options.store), *pinned};
  Reached reached;
  reached.store = open_store(entry.url, options.store);
  reached.info = read_repository_info(*reached.store);
  pin_repository(paths, entry, reached.info);
  return reached;
}

Reached reach(const Paths& paths, const RepositoryEntry& entry, const OpenOptions& options) {
  const auto pinned = pinned_repository(paths, entry);
  if (options.offline) {
    if (pinned) return {nullptr, *pinned};
    throw Error(ErrorKind::kOffline,
                fmt::format("{} was never used on this host: it cannot be opened offline", entry.name),
                {"run the command without --offline once"});
  }
  try {
    return reach_online(paths, entry, pinned, options);
  } catch (const Error& error) {
    // A directory that is absent is most often a disk that is not plugged in.
    const bool gone = is_unreachable(error) || error.kind() == ErrorKind::kNotFound;
    if (!gone || !pinned) throw;
    log::warn("{}: {}; working offline, as isr --offline does without asking", entry.name, error.what());
    return {nullptr, *pinned};
  }
}

fs::path state_directory_of(const Paths& paths, const RepositoryInfo& info, const std::string& user) {
  return paths.state / info.id / user;
}

[[noreturn]] void refuse_unknown_user(const RepositoryEntry& entry) {
  throw Error(ErrorKind::kDenied, fmt::format("{} has no user \"{}\"", entry.name, entry.user),
              {fmt::format("if the name is wrong: isr repo rm {} && isr repo add {} {} --user NAME", entry.name,
                           entry.name, entry.url)});
}

/// The repository's newest keybox; when it stops answering we go on offline.
std::optional<StoredKeybox> fetch_keybox(Reached& reached, const RepositoryEntry& entry) {
  if (!reached.store) return std::nullopt;
  try {
    auto box = read_keybox(*reached.store, entry.user);
    if (!box) refuse_unknown_user(entry);
    return box;
  } catch (const Error& error) {
    if (!is_unreachable(error)) throw;
    log::warn("{}: {}; working offline", entry.name, error.what());
    reached.store = nullptr;
    return std::nullopt;
  }
}

void keep_keybox(const fs::path& directory, ByteView blob) {
  make_private_directory(directory);
  replace_file(directory / "keybox", blob);
}

/// Says what may have happened to a password that was right once.
UserKeys open_for(const RepositoryEntry& entry, ByteView blob, const std::optional<Bytes>& kept,
                  const KeyboxSecret& secret) {
  try {
    return open_keybox(blob, entry.user, secret);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDenied || std::holds_alternative<SecretKey>(secret)) throw;
    std::vector<std::string> hints;
    if (kept && !std::ranges::equal(*kept, blob))
      hints.push_back("it was changed since it was last used on this host: give the new one");
    hints.push_back("if it is lost, the recovery key opens everything: see isr passwd --help");
    throw Error(error.kind(), error.what(), std::move(hints));
  }
}

/// In a handler: throws on, unless this is junk in the place of a keybox and this host has one that opened.
void pass_over_junk(const Error& error, const RepositoryEntry& entry, bool is_kept) {
  if (error.kind() != ErrorKind::kCorrupt) throw;
  if (!is_kept) {
    throw Error(error.kind(), error.what(),
                {fmt::format("on a host that has used {} before, isr passwd {} puts a good keybox behind it",
                             entry.name, entry.name)});
  }
  log::warn("{}: the newest keybox of {} cannot be read ({}); the one that is kept on this host is used", entry.name,
            entry.user, error.what());
}

/// The keybox that is to be opened, and the greatest number in the repository.
struct NewestKeybox {
  std::uint64_t n = 0;  ///< 0: offline
  Bytes blob;           ///< the kept one when we are offline, or when what lies under n is junk
};

NewestKeybox fetch_newest_keybox(Reached& reached, const RepositoryEntry& entry, const std::optional<Bytes>& kept) {
  NewestKeybox newest;
  try {
    if (auto box = fetch_keybox(reached, entry)) return {box->n, std::move(box->blob)};
  } catch (const Error& error) {
    pass_over_junk(error, entry, kept.has_value());
    newest.n = newest_keybox_number(*reached.store, entry.user);
  }
  if (!kept) {
    throw Error(ErrorKind::kOffline,
                fmt::format("{} does not answer, and {} never logged in on this host", entry.name, entry.user),
                {"run isr login once while it can be reached"});
  }
  newest.blob = *kept;
  return newest;
}

/// Takes the kept keybox in the place of a blob that is junk.
UserKeys open_newest(NewestKeybox& newest, const RepositoryEntry& entry, const std::optional<Bytes>& kept,
                     const KeyboxSecret& secret) {
  try {
    return open_for(entry, newest.blob, kept, secret);
  } catch (const Error& error) {
    if (newest.blob == kept) throw;
    pass_over_junk(error, entry, kept.has_value());
  }
  newest.blob = *kept;
  return open_for(entry, *kept, kept, secret);
}

UserKeys unlock(const fs::path& directory, const RepositoryEntry& entry, Reached& reached,
                const PasswordSource& password) {
  const auto kept = read_file_if_exists(directory / "keybox", kMaxKeyboxSize);
  NewestKeybox newest = fetch_newest_keybox(reached, entry, kept);
  UserKeys keys = open_newest(newest, entry, kept, password());
  // Only now: a keybox that does not open must not displace the one that does.
  if (newest.blob != kept) keep_keybox(directory, newest.blob);
  return keys;
}

[[noreturn]] void refuse_device_key(const fs::path& file, std::string_view why) {
  throw Error(ErrorKind::kCorrupt, fmt::format("{} {}", file.string(), why),
              {"unsynced changes on this host are sealed under it: restore the file from a backup,",
               fmt::format("or give them up: mv {0} {0}.broken", file.parent_path().string())});
}

/// `in_use`: something here is sealed under it already.
SecretKey open_device_key(const fs::path& file, const UserKeys& keys, bool in_use) {
  const SecretKey wrapping = hkdf_sha256(keys.domain_secret.view(), {}, "isr1/device");
  const Bytes aad = to_bytes(as_bytes("isr1/device-key"));
  if (const auto box = read_file_if_exists(file, kMaxSmallFile)) {
    SecretKey key;
    if (!open_box(wrapping, aad, *box, key.mutable_view())) {
      refuse_device_key(file, "does not open: it is damaged, or another user's");
    }
    return key;
  }
  if (in_use) refuse_device_key(file, "is missing");
  const SecretKey key = random_key();
  if (create_file(file, seal_box(wrapping, aad, key.view())) == CreateResult::kCreated) return key;
  return open_device_key(file, keys, in_use);  // another process was first
}

/// Equal files in a copy of the home directory give another id: the copy must not pass for this host.
std::string host_id(const fs::path& state_directory, const Key& device_key) {
  const auto machine = read_file_if_exists("/etc/machine-id", kMaxSmallFile).value_or(Bytes{});
  return host_id_of(device_key, as_text(machine), fs::canonical(state_directory).string());
}

/// The host's name as heads and locks may have it: check_user_name().
std::string host_name() {
  std::array<char, 256> raw{};
  if (::gethostname(raw.data(), raw.size() - 1) != 0) return "host";
  std::string name;
  for (const char c : std::string_view(raw.data()).substr(0, 64)) {
    const char small = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    const bool good = (small >= 'a' && small <= 'z') || (small >= '0' && small <= '9') || small == '-' ||
                      small == '.' || small == '_';
    name += good ? small : '-';
  }
  const bool starts_well = !name.empty() && name[0] != '-' && name[0] != '.' && name[0] != '_';
  return starts_well ? name : "host" + name.substr(0, 60);
}

Account finish(const Paths& paths, const RepositoryEntry& entry, Reached reached, UserKeys keys,
               const OpenOptions& options) {
  Account account;
  account.paths = paths;
  account.entry = entry;
  account.info = reached.info;
  account.store = std::move(reached.store);
  account.keys = std::move(keys);
  account.store_options = options.store;
  account.config = options.config;
  account.state_directory = state_directory_of(paths, account.info, entry.user);
  make_private_directory(account.state_directory);
  const fs::path trust = account.state_directory / "trust.db";
  const bool in_use = fs::exists(trust);  // asked first: another process may be making both, the key before it
  account.device_key = open_device_key(account.state_directory / "device-key", account.keys, in_use);
  account.host = {host_name(), host_id(account.state_directory, account.device_key)};
  account.trust = std::make_shared<TrustStore>(trust, account.device_key);
  return account;
}

/// '+' is in no chain's name.
fs::path kept_head(const Account& account, std::string chain) {
  std::replace(chain.begin(), chain.end(), '/', '+');
  return account.state_directory / "heads" / chain;
}

std::optional<UserKeys> keys_from_keyring(const RepositoryInfo& info, const std::string& user) {
  auto secret = keyring_find(keyring_label(info, user));
  if (!secret) return std::nullopt;
  try {
    UserKeys keys = parse_user_keys(*secret);
    if (keys.user == user) return keys;
  } catch (const Error& error) {
    log::warn("the kernel's keyring has a damaged key for {}: {}", user, error.what());
  }
  return std::nullopt;
}

}  // namespace

std::string host_id_of(const Key& device_key, std::string_view machine_id, std::string_view state_directory) {
  SecretText text("isr1/host-id");
  for (const std::string_view part : {as_text(device_key.view()), machine_id, state_directory}) {
    text.append({"", 1});
    text.append(part);
  }
  const Sha256 digest = sha256(as_bytes(text));
  return to_hex(digest.view().first(16));
}

void Account::go_online(const std::stop_token& stop) {
  if (!offline()) return;
  try {
    store = open_pinned_store(entry, info, store_options, stop);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kHistory || error.kind() == ErrorKind::kCancelled) throw;
    throw Error(ErrorKind::kOffline, error.what());
  }
}

BlobStore& Account::online(const std::string& what) const {
  if (!store) {
    throw Error(ErrorKind::kOffline, fmt::format("{} needs {}, which cannot be reached now", what, entry.name));
  }
  return *store;
}

Chain Account::chain(const std::string& id, std::stop_token stop) const {
  online("reading versions");
  return {make_stoppable(store, std::move(stop)), id, keys.signing.public_key, trust, kept_head(*this, id)};
}

std::optional<StoredHead> Account::newest_head(const std::string& chain, std::stop_token stop) const {
  if (!offline()) return this->chain(chain, std::move(stop)).newest();
  return Chain(nullptr, chain, keys.signing.public_key, trust, kept_head(*this, chain)).kept();
}

ParcelLock Account::lock(const ParcelEntry& parcel, std::stop_token stop) const {
  online(fmt::format("the lock of {}", parcel.name));
  return {make_stoppable(store, std::move(stop)), parcel.chain(), keys.signing, host, lease()};
}

LockBase base_of(const ParcelEntry& parcel, const StoredHead& head) {
  return {.chain = parcel.chain(), .n = head.head.n, .hash = head.hash};
}

std::string keyring_label(const RepositoryInfo& info, const std::string& user) {
  return fmt::format("{}{}:{}", kKeyringPrefix, info.id, user);
}

BlobStorePtr open_pinned_store(const RepositoryEntry& entry, const RepositoryInfo& pinned, const StoreOptions& options,
                               const std::stop_token& stop) {
  StoreOptions known = options;
  known.is_known = true;
  BlobStorePtr store = open_store(entry.url, known, stop);
  const RepositoryInfo found = read_repository_info(*make_stoppable(store, stop));
  if (pinned.id != found.id) refuse_other_repository(entry, pinned, found);
  return store;
}

void pin_repository(const Paths& paths, const RepositoryEntry& entry, const RepositoryInfo& info) {
  const fs::path file = pin_file(paths, entry);
  make_private_directory(paths.state);
  make_private_directory(file.parent_path());
  replace_file(file, encode_repository_info(info));
}

std::optional<RepositoryInfo> pinned_repository(const Paths& paths, const RepositoryEntry& entry) {
  const auto bytes = read_file_if_exists(pin_file(paths, entry), kMaxSmallFile);
  if (!bytes) return std::nullopt;
  return parse_repository_info(*bytes);
}

Account open_account(const Paths& paths, const RepositoryEntry& entry, const PasswordSource& password,
                     const OpenOptions& options) {
  check_user_name(entry.user);
  Reached reached = reach(paths, entry, options);
  if (options.use_keyring) {
    if (auto keys = keys_from_keyring(reached.info, entry.user)) {
      return finish(paths, entry, std::move(reached), std::move(*keys), options);
    }
  }
  const fs::path directory = state_directory_of(paths, reached.info, entry.user);
  UserKeys keys = unlock(directory, entry, reached, password);
  return finish(paths, entry, std::move(reached), std::move(keys), options);
}

Account open_account_with_keys(const Paths& paths, const RepositoryEntry& entry, const UserKeys& keys,
                               const OpenOptions& options) {
  if (keys.user != entry.user) {
    throw Error(ErrorKind::kBug, fmt::format("keys of {} for an account of {}", keys.user, entry.user));
  }
  return finish(paths, entry, reach(paths, entry, options), keys, options);
}

void create_user(const Paths& paths, const RepositoryEntry& entry, BlobStore& store, std::string_view passphrase,
                 const Key& recovery) {
  const UserKeys keys = generate_user_keys(entry.user);
  const Bytes keybox = make_keybox(keys, passphrase, recovery);
  const RepositoryInfo info = read_repository_info(store);
  put_first_keybox(store, entry.user, keybox);
  pin_repository(paths, entry, info);
  const BlobStorePtr borrowed(BlobStorePtr(), &store);  // the caller's, and it outlives the account
  Account account = finish(paths, entry, {borrowed, info}, keys, OpenOptions());
  keep_keybox(account.state_directory, keybox);
  change_profile(account, [](Profile&) {});
}

UserKeys change_password(const Paths& paths, const RepositoryEntry& entry, const SecretSource& current,
                         const PasswordSource& next, const OpenOptions& options) {
  check_user_name(entry.user);
  Reached reached = reach(paths, entry, options);
  const fs::path directory = state_directory_of(paths, reached.info, entry.user);
  const auto kept = read_file_if_exists(directory / "keybox", kMaxKeyboxSize);
  NewestKeybox newest = fetch_newest_keybox(reached, entry, kept);
  if (!reached.store) {
    throw Error(ErrorKind::kOffline,
                fmt::format("changing a password needs {}, which cannot be reached now", entry.name));
  }
  const KeyboxSecret secret = current();
  UserKeys keys = open_newest(newest, entry, kept, secret);
  const Bytes changed = with_new_passphrase(newest.blob, entry.user, secret, next());
  put_next_keybox(*reached.store, entry.user, newest.n, changed);
  keep_keybox(directory, changed);
  return keys;
}

}  // namespace isr
