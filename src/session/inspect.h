#pragma once

#include "base/progress.h"
#include "session/parcel_version.h"
#include "session/session.h"

namespace isr {

/// Mounts one version read-only at an empty directory; a background process
/// serves it until it is unmounted. Error as Mount and load_version.
void mount_version(const Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                   const fs::path& directory);
/// main() of that process ("__mount").
int mount_daemon_main();
inline constexpr const char* kMountDaemonArgument = "__mount";

struct CheckFinding {
  std::string where;    ///< "version 3, disk, chunk 17"
  std::string problem;  ///< names the object
};
struct CheckOptions {
  bool deep = false;  ///< fetch, verify and decrypt every object; else presence and the pages only
  bool newest_only = false;
};
struct CheckReport {
  std::uint64_t versions = 0, pages = 0, chunks = 0;
  std::vector<CheckFinding> findings;
};
/// Walks every version of a parcel: heads form one chain, signatures verify, every
/// reachable object is there and, with deep, is what it should be. The cache is not asked.
CheckReport check_parcel(Account& account, const ParcelEntry& parcel, const CheckOptions& options, std::stop_token stop,
                         const ProgressFn& progress);

}  // namespace isr
