#include "repository/store_waits.h"

#include <fmt/format.h>

namespace isr {
namespace {

using std::chrono::seconds;

constexpr seconds kFirst{10};
constexpr seconds kSecond{30};
constexpr seconds kEach{60};

}  // namespace

std::optional<std::string> WaitReport::due(StoreWaits& waits, const std::string& repository,
                                           StoreWaits::Clock::time_point now) {
  const auto oldest = waits.oldest();
  if (oldest != call_) {
    call_ = oldest;
    next_ = kFirst;
  }
  if (!call_) return std::nullopt;
  const auto waited = std::chrono::floor<seconds>(now - *call_);
  if (waited < next_) return std::nullopt;
  next_ = waited < kSecond ? kSecond : (waited / kEach + 1) * kEach;
  return fmt::format("no answer from {} for {} s", repository, waited.count());
}

}  // namespace isr
