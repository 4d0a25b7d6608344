#pragma once

#include <optional>

#include "account/remote.h"
#include "base/file.h"
#include "repository/keybox.h"

/// Opens a user's newest keybox: the repository's, or the copy that this host has kept.
namespace isr {

/// The keybox to open, and the greatest number in the repository.
struct NewestKeybox {
  std::uint64_t n = 0;  ///< 0 when offline
  Bytes blob;           ///< the kept one when offline, or when the blob under n is junk
};

/// The copy in the state directory.
std::optional<Bytes> read_kept_keybox(const fs::path& directory);
void keep_keybox(const fs::path& directory, ByteView blob);
/// Makes the remote offline when it stops answering. Error{kDenied} when there is no such user, {kOffline} when the
/// keybox is neither reachable nor kept.
NewestKeybox fetch_newest_keybox(Remote& remote, const std::optional<Bytes>& kept);
/// Opens the keybox; uses the kept one when the blob is junk. Error{kDenied} for a wrong secret.
UserKeys open_newest(NewestKeybox& newest, const RepositoryEntry& entry, const std::optional<Bytes>& kept,
                     const KeyboxSecret& secret);

}  // namespace isr
