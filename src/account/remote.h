#pragma once

#include <optional>
#include <stop_token>
#include <string>

#include "host/config.h"
#include "host/paths.h"
#include "repository/blob_store.h"
#include "repository/repository_info.h"
#include "repository/store_scheme.h"

namespace isr {

/// The repository of an account, as far as it can be reached. state/pins/ on this host records the repository that each
/// URL stands for, so that a repository with another id cannot make the host forget what it has seen.
struct Remote {
  RepositoryEntry entry;
  RepositoryInfo info;
  BlobStorePtr store;  ///< null when offline
  StoreOptions store_options{};

  bool offline() const { return store == nullptr; }
  /// Throws Error{kOffline} unless online. `what` names the purpose in the message.
  BlobStore& online(const std::string& what) const;
  /// Connects an offline remote. Error{kHistory} as open_pinned_store(), else {kOffline}; {kCancelled} on stop.
  void go_online(const std::stop_token& stop = {});
};

struct RemoteOptions {
  bool offline = false;  ///< do not touch the network
  StoreOptions store{};
};
/// Opens the repository. When it does not answer, the remote is offline and a warning says so once. Error{kNotFound}
/// when there is no repository, {kHistory} when another repository was there before, {kOffline} when it was never used
/// on this host and cannot be reached now.
Remote open_remote(const Paths& paths, const RepositoryEntry& entry, const RemoteOptions& options);
/// True for errors that mean that the repository cannot be reached now.
bool is_unreachable(const Error& error);

/// Opens the store of `entry`. Error{kHistory} when it holds another repository than `pinned`, {kCancelled} on stop.
BlobStorePtr open_pinned_store(const RepositoryEntry& entry, const RepositoryInfo& pinned, const StoreOptions& options,
                               const std::stop_token& stop = {});
/// For repo init and add: records that entry.url stands for this repository on this host from now on.
void pin_repository(const Paths& paths, const RepositoryEntry& entry, const RepositoryInfo& info);
/// The repository that was pinned, or seen first, at that URL. nullopt when it was never used on this host.
std::optional<RepositoryInfo> pinned_repository(const Paths& paths, const RepositoryEntry& entry);

}  // namespace isr
