#pragma once

#include <chrono>
#include <stop_token>

namespace isr {

/// How long to wait for one answer of another process. QEMU may be slow when its memory is on a slow network: `stop`
/// was seen to take seconds for each chunk.
struct Patience {
  std::chrono::milliseconds timeout{std::chrono::minutes(2)};
  std::stop_token stop{};
};

}  // namespace isr
