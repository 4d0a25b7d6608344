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

/// The repository of an account, as far as it can be reached. On this host state/pins/ says which repository each URL
/// stands for, so that another id cannot make us forget what was seen.
struct Remote {
  RepositoryEntry entry;
  RepositoryInfo info;
  BlobStorePtr store;  ///< null when offline
  StoreOptions store_options{};

  bool offline() const { return store == nullptr; }
  /// Throws Error{kOffline} unless online; names what for.
  BlobStore& online(const std::string& what) const;
  /// Makes an offline one online. Error{kHistory} as open_pinned_store(), else {kOffline}; {kCancelled} on stop.
  void go_online(const std::stop_token& stop = {});
};

struct RemoteOptions {
  bool offline = false;  ///< do not touch the network
  StoreOptions store{};
};
/// A repository that does not answer gives an offline one, once, with a warning. Error{kNotFound} no repository there,
/// {kHistory} another one than the one that was there before, {kOffline} never used on this host and not reachable now.
Remote open_remote(const Paths& paths, const RepositoryEntry& entry, const RemoteOptions& options);
/// True for errors of a repository that cannot be reached now.
bool is_unreachable(const Error& error);

/// The store that `entry` names. Error{kHistory} when it is another repository than `pinned`, {kCancelled} on stop.
BlobStorePtr open_pinned_store(const RepositoryEntry& entry, const RepositoryInfo& pinned, const StoreOptions& options,
                               const std::stop_token& stop = {});
/// repo init and add: from now on this repository is what entry.url stands for on this host.
void pin_repository(const Paths& paths, const RepositoryEntry& entry, const RepositoryInfo& info);
/// The repository that was pinned, or seen first, there. nullopt: never used on this host.
std::optional<RepositoryInfo> pinned_repository(const Paths& paths, const RepositoryEntry& entry);

}  // namespace isr
