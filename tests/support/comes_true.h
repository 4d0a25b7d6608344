#pragma once

#include <chrono>
#include <thread>

namespace isr::test {

/// Waits until the condition holds, for a minute at most. Returns whether it holds.
template <class Condition>
bool comes_true(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return condition();
}

}  // namespace isr::test
