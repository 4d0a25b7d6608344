#pragma once

#include <optional>

#include "account/account.h"

namespace isr {

/// The medium in a parcel's CD drive on this host: an ISO image of this host's own.
/// Named here only (STATE/REPOSITORY-ID/USER/cdrom/ID holds its path), never by a
/// version: no stored setting may point at a file of a host.

/// The absolute path of an image that can be read. Error{kUsage} when it is none.
fs::path check_cdrom(const fs::path& image);
/// It stays in the drive until it is taken out, whatever becomes of sessions.
void insert_cdrom(const HostState& host, const ParcelEntry& parcel, const fs::path& image);
void eject_cdrom(const HostState& host, const ParcelEntry& parcel);
/// As inserted; the file may have gone since.
std::optional<fs::path> inserted_cdrom(const HostState& host, const ParcelEntry& parcel);

}  // namespace isr
