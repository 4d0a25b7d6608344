#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace isr {

/// Called during a long step. `done` and `total` are bytes; total may grow.
using ProgressFn = std::function<void(std::string_view step, std::uint64_t done, std::uint64_t total)>;

}  // namespace isr
