#pragma once

#include <chrono>
#include <stop_token>

namespace isr {

/// Returns after `time`, or at once when stop is requested.
void sleep_unless_stopped(std::chrono::milliseconds time, const std::stop_token& stop);
/// Returns when stop is requested.
void sleep_until_stopped(const std::stop_token& stop);

}  // namespace isr
