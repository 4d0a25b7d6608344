#pragma once

#include <array>

#include "repository/store_scheme.h"

namespace isr {

// Every kind of store. A new kind is a file of its own and one line in each of these two lists.
StoreScheme directory_scheme();
StoreScheme http_scheme();
StoreScheme https_scheme();

inline auto all_store_schemes() { return std::array{directory_scheme(), http_scheme(), https_scheme()}; }

}  // namespace isr
