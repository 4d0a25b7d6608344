#pragma once

#include <spdlog/spdlog.h>

/// spdlog's default logger, to stderr. The CLI sets its level (warn unless -v);
/// the session daemon logs to a file in the state directory. A failure is logged
/// once, where it is handled. Never log a secret; a key id is fine.
namespace isr::log {
using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;
}  // namespace isr::log
