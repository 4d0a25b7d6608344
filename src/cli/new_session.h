#pragma once

#include "cli/context.h"

/// Making a session of a parcel that is not checked out here.
namespace isr {

/// The version that a command is to go on from: what -r says, else what follows '@'.
VersionSelector wanted_version(const OpenParcel& parcel, const std::optional<std::string>& option);
/// check_out() of that version and its daemon; when that cannot start, the lock is given back.
/// Error{kLocked} in the parcel's own name, with what to do.
fs::path take_out(CommandContext& context, OpenParcel& parcel, LockMode mode, const VersionChoice& choice,
                  bool take_lock);

}  // namespace isr
