#pragma once

#include <cstdint>
#include <functional>

#include "vm/vm.h"

namespace isr {

/// Asks the agent in the guest, if there is one, to drop the guest's page cache, and waits for the memory that the
/// guest then gives back. `given_back` returns the bytes given back so far. Takes 5 s at most, 2.5 s if the agent does
/// not answer. Never fails.
void drop_page_cache(Vm& vm, const std::function<std::uint64_t()>& given_back);

}  // namespace isr
