#pragma once

#include <functional>
#include <string>

#include "account/account.h"

namespace isr {

/// Returns the passphrase when it is needed, or throws Error{kDenied}.
using PasswordSource = std::function<SecretText()>;
struct OpenOptions {
  bool offline = false;     ///< do not touch the network
  bool use_keyring = true;  ///< false: the password was given, so it must be checked
  Config config{};          ///< the settings of the account
  StoreOptions store{};     ///< time-outs
};
/// Takes the keys from the kernel keyring (isr login), else from a keybox, which `password` opens: the repository's
/// newest keybox, or the local copy when the repository cannot be reached. When the repository does not answer, the
/// account is offline from then on, and a warning says so once.
/// Error{kNotFound} when there is no repository, {kDenied} for an unknown user or wrong password, {kHistory} when
/// another repository was there before, {kOffline} when it was never used on this host and cannot be reached now.
Account open_account(const Paths& paths, const RepositoryEntry& entry, const PasswordSource& password,
                     const OpenOptions& options);
/// Opens the account with keys that another isr process handed over (to the session daemon).
Account open_account_with_keys(const Paths& paths, const RepositoryEntry& entry, const UserKeys& keys,
                               const OpenOptions& options);
/// The label of the user's keys in the kernel's keyring.
std::string keyring_label(const RepositoryInfo& info, const std::string& user);

}  // namespace isr
