#pragma once

#include "account/parcel_version.h"
#include "base/progress.h"
#include "transfer/disk_source.h"

namespace isr {

struct ImportResult {
  std::uint64_t data_bytes = 0;   ///< bytes that were read, without holes
  std::uint64_t known_bytes = 0;  ///< part of data_bytes that one of the user's versions already has: hashed only
  std::uint64_t objects = 0;
  std::uint64_t uploaded_bytes = 0;  ///< sealed
  std::uint64_t missing_bytes = 0;   ///< from DiskSource::missing_bytes()
  std::uint64_t unreadable_bytes = 0;
};

/// Seals a disk chunk by chunk into the repository and into this host's cache, so that the parcel starts on this host
/// without downloads. Holes cost nothing. For chunks in the newest version of any parcel, the cost is reading, hashing
/// and asking for the object. When interrupted and run again, it sends only what is missing. The disk is padded as
/// make_disk() says. Error{kIo} when the source cannot be read, or changes meanwhile.
VersionImage import_disk(Account& account, const std::string& name, DiskSource& source, std::stop_token stop,
                         const ProgressFn& progress, ImportResult& result);

}  // namespace isr
