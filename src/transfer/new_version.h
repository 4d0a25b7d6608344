#pragma once

#include <stop_token>

#include "account/parcel_version.h"

/// Makes versions without a session: the first version of a parcel, and copies. On stop the functions end with
/// Error{kCancelled} and give back their lock.
namespace isr {

/// Makes a new parcel with this first version: publishes it, then names it in the profile. Error{kUsage} when the name
/// is taken or the profile is full; the version is then removed again. After a crash between the two steps there is a
/// chain that no profile names (docs/formats/profile.md).
ParcelEntry create_parcel(Account& account, const std::string& name, const ParcelVersion& version,
                          const std::stop_token& stop = {});
/// Makes a new parcel whose first version is a copy of `from`, memory included. Writes only references, because the
/// objects are in the repository already. Holds the new parcel's lock until the profile names it. Errors as
/// create_parcel().
ParcelEntry branch_parcel(Account& account, const ParcelEntry& parcel, const LoadedVersion& from,
                          const std::string& name, const std::stop_token& stop = {});

/// Appends a copy of a version or fork as the newest version. Error{kVm} when the parcel is in use here, {kLocked} when
/// another host holds it and no reason to take its lock is given.
std::uint64_t roll_back(Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                        const std::optional<std::string>& steal_reason, const std::stop_token& stop = {});

}  // namespace isr
