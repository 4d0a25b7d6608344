#pragma once

#include "cli/context.h"

/// Makes a session of a parcel that is not checked out here.
namespace isr {

/// The version on which a command continues: the one given with -r, else the one after '@'.
VersionSelector wanted_version(const OpenParcel& parcel, const std::optional<std::string>& option);
/// Calls check_out() for that version and starts its daemon. When the daemon cannot start, gives the lock back.
/// Error{kLocked} names the parcel and says what to do.
fs::path take_out(CommandContext& context, OpenParcel& parcel, LockMode mode, const VersionChoice& choice,
                  bool take_lock);

}  // namespace isr
