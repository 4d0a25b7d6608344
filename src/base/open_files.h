#pragma once

#include <cstdint>

namespace isr {

/// Raises the limit on open files for this process and the programs it starts to the system's maximum, but to 65536 at
/// most, because some programs close every number up to the limit. Returns the new limit.
std::uint64_t raise_open_file_limit();

}  // namespace isr
