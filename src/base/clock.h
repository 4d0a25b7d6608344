#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace isr {

using WallTime = std::chrono::sys_seconds;
WallTime wall_now();
/// Time since the machine booted, including suspended time.
std::chrono::milliseconds boot_time();
/// RFC 3339 in UTC, e.g. 2026-11-23T04:06:20Z.
std::string to_rfc3339(WallTime time);
/// The inverse of to_rfc3339(). Accepts exactly that form.
std::optional<WallTime> from_rfc3339(std::string_view text);

}  // namespace isr
