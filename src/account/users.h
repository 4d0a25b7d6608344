#pragma once

#include "account/open_account.h"

/// The users of a repository: making one, and changing a password.
namespace isr {

/// Gives the passphrase or the recovery key.
using SecretSource = std::function<KeyboxSecret()>;

/// repo init: pin, keys, keybox, empty profile. The recovery key is the caller's, who keeps it before
/// there is anything that it opens. Error{kUsage} when the user exists.
void create_user(const Paths& paths, const RepositoryEntry& entry, BlobStore& store, std::string_view passphrase,
                 const Key& recovery);
/// passwd: puts the next keybox and keeps a copy of it; no data is written anew. `current`
/// is asked for and proved before `next` is. Returns the keys. Errors as open_account(),
/// {kOffline} the repository cannot be reached, {kForked} somebody else changed it meanwhile.
UserKeys change_password(const Paths& paths, const RepositoryEntry& entry, const SecretSource& current,
                         const PasswordSource& next, const OpenOptions& options);

}  // namespace isr
