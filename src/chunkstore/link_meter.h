#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "base/sync.h"

namespace isr {

/// How many fetches at once fill the link to the repository without queueing on
/// it, learnt from the fetches themselves. Little's law: what a full link holds
/// is its rate times the time of a fetch that shares it with no other. The rate is the
/// best of the last seconds. The time cannot be seen on a busy link, so every
/// while the window is 1 until one fetch was alone (as BBR does with ProbeRTT,
/// draft-cardwell-iccrg-bbr-congestion-control).
///
/// Units:   bytes of objects of any size; the clock is a parameter.
/// Threads: any.
class LinkMeter {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// What end() needs to know of a fetch's beginning.
  struct Started {
    Time at;
    std::uint64_t delivered = 0;
    std::uint64_t number = 0;
    bool alone = false;
  };

  Started begin(Time now);
  /// After each begin(). `bytes`: what the fetch brought; 0 when it failed.
  void end(const Started& started, std::uint64_t bytes, Time now);

  /// Fetches to keep under way, 1..kMost; nullopt when nothing was fetched lately,
  /// so that nothing is known (or everything is here).
  std::optional<unsigned> window(Time now) const;
  static constexpr unsigned kMost = 16;

 private:
  struct State {
    unsigned under_way = 0;
    std::uint64_t begun = 0;
    std::uint64_t delivered = 0;
    double mean_bytes = 0;                       // of an object, lately
    double best_rate = 0, best_rate_before = 0;  // bytes/s, of this period and of the one before
    double alone = 0, alone_before = 0;          // seconds, the least likewise; 0: none
    Time period{};                               // when this one began
    Time probed{};                               // when a fetch was last alone
    Time last{};                                 // when a fetch last brought something
  };
  static void begin_period(State& state, Time now);
  Sync<State> state_;
};

}  // namespace isr
