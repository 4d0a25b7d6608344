#pragma once

#include "account/parcel_version.h"
#include "cli/context.h"

namespace isr {

/// Says that a new disk is longer than what it was made from, if it is.
void report_padding(CommandContext& context, const VersionImage& disk);

}  // namespace isr
