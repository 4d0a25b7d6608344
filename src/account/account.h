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

/// Who somebody is in a repository: the user's name and keys.
using Identity = UserKeys;

/// A user's place in one repository, opened with their keys: what every command
/// that touches a parcel starts from. A function that needs one part takes that part.
struct Account {
  Identity identity;
  Remote remote;
  HostState host;

  /// Error{kOffline} unless online. Its calls end with Error{kCancelled} on stop; so do those of lock().
  Chain chain(const std::string& id, std::stop_token stop = {}) const;
  /// Chain::newest(), or offline Chain::kept().
  std::optional<StoredHead> newest_head(const std::string& chain, std::stop_token stop = {}) const;
  ParcelLock lock(const ParcelEntry& parcel, std::stop_token stop = {}) const;
};

/// The base of a lock record: the version that its holder starts from.
LockBase base_of(const ParcelEntry& parcel, const StoredHead& head);

}  // namespace isr
