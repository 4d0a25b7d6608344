#pragma once

#include "host/paths.h"
#include "vm/settings.h"

namespace isr {

/// Says why the suspended memory of a version with these settings and this stamp cannot be loaded on this host; nullopt
/// if it can. Asks QEMU; downloads nothing.
std::optional<std::string> why_not_resumable(const VmSettings& vm, const VmStamp& stamp, const Paths& paths);

}  // namespace isr
