#pragma once

#include "account/parcel_version.h"
#include "base/progress.h"
#include "transfer/disk_source.h"

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

}  // namespace isr
