#include "account/users.h"

#include <fmt/format.h>

#include "account/newest_keybox.h"

namespace isr {

void create_user(const Paths& paths, const RepositoryEntry& entry, BlobStore& store, std::string_view passphrase,
                 const Key& recovery, const ScryptParams& params) {
  const UserKeys keys = generate_user_keys(entry.user);
  const Bytes keybox = make_keybox(keys, passphrase, recovery, params);
  const RepositoryInfo info = read_repository_info(store);
  put_first_keybox(store, entry.user, keybox);
  pin_repository(paths, entry, info);
  const BlobStorePtr borrowed(BlobStorePtr(), &store);  // owned by the caller; it outlives the account
  Account account{keys, {entry, info, borrowed}, open_host_state(paths, info, keys, Config{})};
  keep_keybox(account.host.state_directory, keybox);
  change_profile(account, [](Profile&) {});
}

UserKeys change_password(const Paths& paths, const RepositoryEntry& entry, const SecretSource& current,
                         const PasswordSource& next, const OpenOptions& options) {
  check_user_name(entry.user);
  Remote remote = open_remote(paths, entry, {options.offline, options.store});
  const fs::path directory = state_directory_of(paths, remote.info, entry.user);
  const auto kept = read_kept_keybox(directory);
  NewestKeybox newest = fetch_newest_keybox(remote, kept);
  if (!remote.store) {
    throw Error(ErrorKind::kOffline,
                fmt::format("changing a password needs {}, which cannot be reached now", entry.name));
  }
  const KeyboxSecret secret = current();
  UserKeys keys = open_newest(newest, entry, kept, secret);
  const Bytes changed = with_new_passphrase(newest.blob, entry.user, secret, next());
  put_next_keybox(*remote.store, entry.user, newest.n, changed);
  keep_keybox(directory, changed);
  return keys;
}

}  // namespace isr
