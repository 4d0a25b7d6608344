#pragma once

#include <optional>

#include "account/account.h"

namespace isr {

/// The medium in a parcel's CD drive on this host: an ISO image, which is a file of this host. The file
/// STATE/REPOSITORY-ID/USER/cdrom/ID holds its path. No version holds it, because no stored setting may point at a file
/// of a host.

/// Returns the absolute path of an image. Error{kUsage} unless it is a regular file that is readable and not empty.
fs::path check_cdrom(const fs::path& image);
/// Puts an image into the drive. It stays there until eject_cdrom(), even when the session ends. Errors of
/// check_cdrom().
void insert_cdrom(const HostState& host, const ParcelEntry& parcel, const fs::path& image);
void eject_cdrom(const HostState& host, const ParcelEntry& parcel);
/// Returns the path that was inserted, nullopt if the drive is empty. The file may have been deleted since.
std::optional<fs::path> inserted_cdrom(const HostState& host, const ParcelEntry& parcel);

}  // namespace isr
