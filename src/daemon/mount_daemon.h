#pragma once

#include "account/parcel_version.h"

namespace isr {

/// Mounts one version read-only at an empty directory; a background process serves it until it is unmounted. Errors of
/// make_mount(), load_version() and start_background().
void mount_version(const Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                   const fs::path& directory);
/// main() of that process ("__mount").
int mount_daemon_main();
inline constexpr const char* kMountDaemonArgument = "__mount";

}  // namespace isr
