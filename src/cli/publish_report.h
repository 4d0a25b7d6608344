#pragma once

#include "cli/context.h"
#include "daemon/protocol.h"

/// The output of commands that publish a session.
namespace isr {

/// Prints the result of a publish. Returns the exit code (0, or 17 for a fork).
int report_publish(CommandContext& context, const std::string& name, const std::string& done,
                   const PublishAnswer& answer);
/// For such a command when the parcel has no session here, because an earlier run finished, or none was begun. Gives
/// back a lock that this host still has.
int report_nothing_here(CommandContext& context, const OpenParcel& parcel);

}  // namespace isr
