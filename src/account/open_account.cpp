// Opening an account answers two questions. Is the repository there? If not, the account is offline, if this host knows
// the repository. Where do the keys come from: another process, the keyring or a keybox? The files below the state
// directory are made last, after the keys were proved.
#include "account/open_account.h"

#include <fmt/format.h>

#include "account/newest_keybox.h"
#include "base/log.h"
#include "host/keyring.h"

namespace isr {
namespace {

UserKeys unlock(const fs::path& directory, Remote& remote, const PasswordSource& password) {
  const auto kept = read_kept_keybox(directory);
  NewestKeybox newest = fetch_newest_keybox(remote, kept);
  UserKeys keys = open_newest(newest, remote.entry, kept, password());
  // Kept only now, because a keybox that does not open must not replace the one that does.
  if (newest.blob != kept) keep_keybox(directory, newest.blob);
  return keys;
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

Account join(const Paths& paths, UserKeys keys, Remote remote, const OpenOptions& options) {
  HostState host = open_host_state(paths, remote.info, keys, options.config);
  return {std::move(keys), std::move(remote), std::move(host)};
}

}  // namespace

std::string keyring_label(const RepositoryInfo& info, const std::string& user) {
  return fmt::format("{}{}:{}", kKeyringPrefix, info.id, user);
}

Account open_account(const Paths& paths, const RepositoryEntry& entry, const PasswordSource& password,
                     const OpenOptions& options) {
  check_user_name(entry.user);
  Remote remote = open_remote(paths, entry, {options.offline, options.store});
  if (options.use_keyring) {
    if (auto keys = keys_from_keyring(remote.info, entry.user)) {
      return join(paths, std::move(*keys), std::move(remote), options);
    }
  }
  const fs::path directory = state_directory_of(paths, remote.info, entry.user);
  UserKeys keys = unlock(directory, remote, password);
  return join(paths, std::move(keys), std::move(remote), options);
}

Account open_account_with_keys(const Paths& paths, const RepositoryEntry& entry, const UserKeys& keys,
                               const OpenOptions& options) {
  if (keys.user != entry.user) {
    throw Error(ErrorKind::kBug, fmt::format("keys of {} for an account of {}", keys.user, entry.user));
  }
  return join(paths, keys, open_remote(paths, entry, {options.offline, options.store}), options);
}

}  // namespace isr
