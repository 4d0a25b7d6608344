#pragma once

#include <exception>
#include <functional>
#include <string_view>

#include "base/log.h"

namespace isr {

/// Runs `body`. Logs a failure as a warning that begins with `what`.
inline void guarded(std::string_view what, const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    log::warn("{}: {}", what, error.what());
  }
}

}  // namespace isr
