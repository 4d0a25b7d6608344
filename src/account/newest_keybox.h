#pragma once

#include <optional>

#include "account/remote.h"
#include "base/file.h"
#include "repository/keybox.h"

/// Opening a user's newest keybox: the repository's, or the one that this host has kept.
namespace isr {

/// The keybox that is to be opened, and the greatest number in the repository.
struct NewestKeybox {
  std::uint64_t n = 0;  ///< 0: offline
  Bytes blob;           ///< the kept one when we are offline, or when what lies under n is junk
};

/// The copy in a state directory.
std::optional<Bytes> read_kept_keybox(const fs::path& directory);
void keep_keybox(const fs::path& directory, ByteView blob);
/// Makes the remote offline when it stops answering. Error{kDenied} no such user, {kOffline} neither there nor kept.
NewestKeybox fetch_newest_keybox(Remote& remote, const std::optional<Bytes>& kept);
/// Takes the kept keybox in the place of a blob that is junk. Error{kDenied} for a wrong secret.
UserKeys open_newest(NewestKeybox& newest, const RepositoryEntry& entry, const std::optional<Bytes>& kept,
                     const KeyboxSecret& secret);

}  // namespace isr
