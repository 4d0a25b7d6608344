#pragma once

#include "account/open_account.h"

/// Makes users of a repository and changes their passwords.
namespace isr {

/// Returns the passphrase or the recovery key.
using SecretSource = std::function<KeyboxSecret()>;

/// For repo init: makes the pin, keys, keybox and an empty profile. The caller makes the recovery key and saves it
/// before this call, so that it is safe before there is anything to open. Error{kUsage} when the user exists.
/// `params` say what trying one passphrase costs.
void create_user(const Paths& paths, const RepositoryEntry& entry, BlobStore& store, std::string_view passphrase,
                 const Key& recovery, const ScryptParams& params = {});
/// For passwd: puts the next keybox and keeps a copy of it. No data is rewritten. Asks for `current` and proves it
/// before asking for `next`. Returns the keys. Errors as open_account(), and {kOffline} when the repository cannot be
/// reached, {kForked} when the password was changed elsewhere meanwhile.
UserKeys change_password(const Paths& paths, const RepositoryEntry& entry, const SecretSource& current,
                         const PasswordSource& next, const OpenOptions& options);

}  // namespace isr
