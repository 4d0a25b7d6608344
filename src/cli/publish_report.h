#pragma once

#include "cli/context.h"
#include "daemon/protocol.h"

/// What commands that publish a session say at their end.
namespace isr {

/// Prints what a publish came to; the exit code (0, or 17 for a fork).
int report_publish(CommandContext& context, const std::string& name, const std::string& done,
                   const PublishAnswer& answer);
/// The end of such a command when nothing is here: it has run to its end before, or never began. Gives back a
/// lock of this host that is left of it.
int report_nothing_here(CommandContext& context, const OpenParcel& parcel);

}  // namespace isr
