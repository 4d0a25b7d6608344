#pragma once

#include <functional>
#include <string>

#include "account/account.h"

namespace isr {

/// Gives the passphrase when it is needed, or throws Error{kDenied}.
using PasswordSource = std::function<SecretText()>;
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
/// Under which the kernel's keyring has the user's keys.
std::string keyring_label(const RepositoryInfo& info, const std::string& user);

}  // namespace isr
