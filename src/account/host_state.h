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

/// The part of an account that lies on this host: places, settings, and the newest state seen.
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

  std::chrono::seconds lease() const { return config.get_seconds("lock.lease"); }  ///< for attended locks
  /// The limit for publishing and importing, in bytes a second; 0: no limit.
  std::uint64_t upload_limit() const { return config.get_bytes("upload.limit"); }
  fs::path parcel_directory(const ParcelEntry& parcel) const { return state_directory / "parcels" / parcel.id; }
  /// The file that keeps the newest head seen of a chain.
  fs::path kept_head(std::string chain) const;
};

fs::path state_directory_of(const Paths& paths, const RepositoryInfo& info, const std::string& user);
/// Makes the missing files. Error{kCorrupt} when the device key is missing or does not open although data is sealed
/// under it.
HostState open_host_state(const Paths& paths, const RepositoryInfo& info, const UserKeys& keys, const Config& config);
/// The host id that locks show. It is derived from the device key, this machine, and the place of the state directory
/// on it.
std::string host_id_of(const Key& device_key, std::string_view machine_id, std::string_view state_directory);

}  // namespace isr
