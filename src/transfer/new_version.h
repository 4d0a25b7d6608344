#pragma once

#include <stop_token>

#include "account/parcel_version.h"

/// Versions that are made without a session: the first one of a parcel, and copies. They end with
/// Error{kCancelled} on stop, and give the lock back that they have.
namespace isr {

/// A new parcel with this first version: publishes it, then names it in the
/// profile. Error{kUsage} when the name is taken, or the profile is full; the version is removed again then. After a
/// crash between the two it is a chain that no profile names (docs/formats/profile.md).
ParcelEntry create_parcel(Account& account, const std::string& name, const ParcelVersion& version,
                          const std::stop_token& stop = {});
/// A new parcel whose first version is a copy of `from`, memory included. Only references are written: what they
/// name lies in the repository already. Its lock is held until its name is known. Error as create_parcel().
ParcelEntry branch_parcel(Account& account, const ParcelEntry& parcel, const LoadedVersion& from,
                          const std::string& name, const std::stop_token& stop = {});

/// Appends a copy of a version or fork as the newest version. Error{kVm} when the parcel is in use here, {kLocked} when
/// another host holds it and there is no reason to take its lock.
std::uint64_t roll_back(Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                        const std::optional<std::string>& steal_reason, const std::stop_token& stop = {});

}  // namespace isr
