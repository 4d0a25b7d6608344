#pragma once

#include "host/paths.h"
#include "vm/settings.h"

namespace isr {

/// Why suspended memory of this version cannot be loaded on this host; nullopt when it can. Asks QEMU, downloads
/// nothing.
std::optional<std::string> why_not_resumable(const VmSettings& vm, const VmStamp& stamp, const Paths& paths);

}  // namespace isr
