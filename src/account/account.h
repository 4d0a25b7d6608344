#pragma once

#include <optional>
#include <stop_token>
#include <string>

#include "account/host_state.h"
#include "account/profile.h"
#include "account/remote.h"
#include "repository/chain.h"
#include "repository/keybox.h"
#include "repository/lock.h"

namespace isr {

/// The name and keys of a user in a repository.
using Identity = UserKeys;

/// A user's place in one repository, opened with their keys. Every command that touches a parcel starts with it. A
/// function that needs only one part takes that part.
struct Account {
  Identity identity;
  Remote remote;
  HostState host;

  /// Error{kOffline} unless online. On stop the calls of the chain end with Error{kCancelled}, as do those of lock().
  Chain chain(const std::string& id, std::stop_token stop = {}) const;
  /// Chain::newest() when online, Chain::kept() when offline.
  std::optional<StoredHead> newest_head(const std::string& chain, std::stop_token stop = {}) const;
  ParcelLock lock(const ParcelEntry& parcel, std::stop_token stop = {}) const;
};

/// The base of a lock record: the version that the holder's work is based on.
LockBase base_of(const ParcelEntry& parcel, const StoredHead& head);

}  // namespace isr
