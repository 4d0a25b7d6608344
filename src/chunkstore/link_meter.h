#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "base/sync.h"

namespace isr {

/// Learns from the fetches themselves how many at once fill the link to the repository without queueing on it. By
/// Little's law a full link holds its rate times the duration of a fetch that shares it with no other. The rate is the
/// best of the last seconds. The duration cannot be measured on a busy link, so from time to time the window is 1 until
/// one fetch was alone (as BBR does with ProbeRTT, draft-cardwell-iccrg-bbr-congestion-control).
///
/// Units:   bytes of objects of any size; the clock is a parameter.
/// Threads: any.
class LinkMeter {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// The state at the begin of a fetch, for end().
  struct Started {
    Time at;
    std::uint64_t delivered = 0;
    std::uint64_t number = 0;
    bool alone = false;
  };

  Started begin(Time now);
  /// Call once for each begin(). `bytes`: the size of the fetched object; 0 when the fetch failed.
  void end(const Started& started, std::uint64_t bytes, Time now);

  /// The number of fetches to keep under way, 1..kMost; nullopt when it is not known, because nothing was fetched
  /// lately.
  std::optional<unsigned> window(Time now) const;
  static constexpr unsigned kMost = 16;

 private:
  struct State {
    unsigned under_way = 0;
    std::uint64_t begun = 0;
    std::uint64_t delivered = 0;
    double mean_bytes = 0;                       // recent average for an object
    double best_rate = 0, best_rate_before = 0;  // bytes/s, in this period and in the one before
    double alone = 0, alone_before = 0;          // seconds, the least in either period; 0: none
    Time period{};                               // begin of this period
    Time probed{};                               // when a fetch was last alone
    Time last{};                                 // when a fetch last succeeded
  };
  static void begin_period(State& state, Time now);
  Sync<State> state_;
};

}  // namespace isr
