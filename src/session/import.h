#pragma once

#include "base/progress.h"
#include "session/disk_source.h"
#include "session/session.h"

namespace isr {

struct ImportResult {
  std::uint64_t data_bytes = 0;   ///< of it, read: not holes
  std::uint64_t known_bytes = 0;  ///< of these: hashed only, since a version of the user's has them already
  std::uint64_t objects = 0;
  std::uint64_t uploaded_bytes = 0;  ///< sealed
  std::uint64_t missing_bytes = 0;   ///< DiskSource's
  std::uint64_t unreadable_bytes = 0;
};

/// Seals a disk chunk by chunk into the repository, and into this host's cache,
/// so that what was imported here starts here at once. Holes cost nothing, and what
/// the newest version of any parcel has costs reading, hashing and asking for its object.
/// Interrupted and run again it sends only what is missing.
/// The disk is padded as make_disk() says. Error{kIo} when the source cannot be read, or changes meanwhile.
VersionImage import_disk(Account& account, const std::string& name, DiskSource& source, std::stop_token stop,
                         const ProgressFn& progress, ImportResult& result);

/// A new parcel with this first version: publishes it, then names it in the
/// profile. Error{kUsage} when the name is taken, or the profile is full; the version is removed again then. After a
/// crash between the two it is a chain that no profile names (docs/formats/profile.md).
ParcelEntry create_parcel(Account& account, const std::string& name, const ParcelVersion& version);
/// A new parcel whose first version is a copy of `from`, memory included. Only references are written: what they
/// name lies in the repository already. Its lock is held until its name is known. Error as create_parcel().
ParcelEntry branch_parcel(Account& account, const ParcelEntry& parcel, const LoadedVersion& from,
                          const std::string& name);

/// Appends a copy of a version or fork as the newest version. Error{kVm} when the parcel is in use here, {kLocked} when
/// another host holds it and there is no reason to take its lock.
std::uint64_t roll_back(Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                        const std::optional<std::string>& steal_reason);

/// The original size of a padded disk while its padding is all zeros, and that of the image else.
std::uint64_t export_size(Image& image, const VersionImage& described);
/// Writes the first `size` bytes of an image to a new raw file, holes kept; removed again after a failure.
/// Error{kUsage} when the file exists.
void export_raw(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                const ProgressFn& progress);

}  // namespace isr
