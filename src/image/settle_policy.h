#pragma once

#include <chrono>
#include <cstdint>

namespace isr {

struct SettleOptions {
  std::uint64_t calm_limit = 64U << 20U;       ///< journal bytes that may stay while the guest writes little
  std::uint64_t busy_limit = 1ULL << 30U;      ///< and while it writes more
  std::uint64_t calm_bytes_per_s = 8U << 20U;  ///< less than this counts as little
  std::chrono::milliseconds calm_after{2000};  ///< when that has lasted this long
  std::chrono::milliseconds pause{10'000};     ///< after a step that gained nothing
};

/// Decides when to settle. Sealing takes a processor from the guest, so it waits until the guest is calm, unless the
/// journal grows large meanwhile. Pure; not thread-safe.
class SettlePolicy {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit SettlePolicy(const SettleOptions& options = {}) : options_(options) {}

  /// `written`: all bytes ever written to the images. Call a few times a second.
  bool is_due(std::uint64_t journal_bytes, std::uint64_t written, Time now) {
    const auto period = std::chrono::duration_cast<std::chrono::milliseconds>(now - since_);
    if (period >= options_.calm_after) {
      const std::uint64_t per_s = (written - written_) * 1000 / static_cast<std::uint64_t>(period.count());
      calm_ = since_ != Time{} && per_s < options_.calm_bytes_per_s;
      written_ = written;
      since_ = now;
    }
    return now >= not_before_ && journal_bytes > (calm_ ? options_.calm_limit : options_.busy_limit);
  }
  /// True when the journal is so large that also chunks of which little changed should leave it.
  bool is_large(std::uint64_t journal_bytes) const { return journal_bytes > options_.busy_limit; }
  /// Call when the last step failed or could settle nothing, because an immediate next step would not gain more.
  void gained_nothing(Time now) { not_before_ = now + options_.pause; }

 private:
  SettleOptions options_;
  std::uint64_t written_ = 0;
  Time since_{};
  Time not_before_{};
  bool calm_ = false;
};

}  // namespace isr
