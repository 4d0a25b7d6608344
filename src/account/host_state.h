#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "account/profile.h"
#include "host/config.h"
#include "repository/keybox.h"
#include "repository/lock.h"
#include "repository/repository_info.h"
#include "repository/trust_store.h"

namespace isr {

/// What this host has of an account: places, settings, and what it has seen.
///
/// state/REPOSITORY-ID/USER/ has keybox (the newest one seen, for logging in
/// offline), device-key (sealed under a key that the keybox holds), trust.db,
/// heads/ (the newest head seen of each chain, for looking at it offline),
/// parcels/ID/ (sessions).
struct HostState {
  Paths paths;
  fs::path state_directory;  ///< state/REPOSITORY-ID/USER
  SecretKey device_key;
  LockIdentity holder;  ///< how locks and heads name this host
  std::shared_ptr<TrustStore> trust;
  Config config{};  ///< as the command resolved it, also in a daemon

  std::chrono::seconds lease() const { return config.get_seconds("lock.lease"); }  ///< of attended locks
  /// Bytes a second of what is published or imported; 0: none.
  std::uint64_t upload_limit() const { return config.get_bytes("upload.limit"); }
  fs::path parcel_directory(const ParcelEntry& parcel) const { return state_directory / "parcels" / parcel.id; }
  /// Where the newest head seen of a chain is kept.
  fs::path kept_head(std::string chain) const;
};

fs::path state_directory_of(const Paths& paths, const RepositoryInfo& info, const std::string& user);
/// Makes what is missing. Error{kCorrupt} when the device key is missing or does not open, and something is sealed
/// under it.
HostState open_host_state(const Paths& paths, const RepositoryInfo& info, const UserKeys& keys, const Config& config);
/// The host id that locks show: of the device key, this machine, and where on it the state directory lies.
std::string host_id_of(const Key& device_key, std::string_view machine_id, std::string_view state_directory);

}  // namespace isr
