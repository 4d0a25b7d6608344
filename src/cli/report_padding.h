#pragma once

#include "account/parcel_version.h"
#include "cli/context.h"

namespace isr {

/// If a new disk is longer than its source, says so.
void report_padding(CommandContext& context, const VersionImage& disk);

}  // namespace isr
