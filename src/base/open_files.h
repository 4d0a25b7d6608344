#pragma once

#include <cstdint>

namespace isr {

/// Lets this process, and the programs it starts, have as many files open as the system allows it, up to 65536:
/// some programs close every number up to the limit. Returns what it may have now.
std::uint64_t raise_open_file_limit();

}  // namespace isr
