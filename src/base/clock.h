#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace isr {

using WallTime = std::chrono::sys_seconds;
WallTime wall_now();
/// Since the machine booted, also while it slept.
std::chrono::milliseconds boot_time();
/// RFC 3339 in UTC, e.g. 2026-11-23T04:06:20Z.
std::string to_rfc3339(WallTime time);
/// The inverse: exactly that form, nothing else.
std::optional<WallTime> from_rfc3339(std::string_view text);

}  // namespace isr
