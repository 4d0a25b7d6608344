#include "chunkstore/link_meter.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <vector>

using namespace isr;
using namespace std::chrono_literals;

namespace {

/// A link of a rate and a round trip, and somebody who keeps as many fetches under way as the meter says.
struct Link {
  double bytes_per_s;
  std::chrono::microseconds round_trip;
  LinkMeter meter;
  LinkMeter::Time now = LinkMeter::Time{} + 1h;
  LinkMeter::Time free = now;  // when the last byte that is under way will have passed
  struct Fetch {
    LinkMeter::Started started;
    LinkMeter::Time done;
  };
  std::vector<Fetch> under_way{};

  unsigned window() const { return meter.window(now).value_or(4); }
  void begin(std::uint64_t bytes) {
    const std::chrono::microseconds passing(static_cast<long>(static_cast<double>(bytes) / bytes_per_s * 1e6));
    free = std::max(free, now + round_trip) + passing;
    under_way.push_back({meter.begin(now), free});
  }
  void run(int fetches, std::uint64_t bytes = 100'000) {
    while (fetches-- > 0) {
      while (under_way.size() < window()) begin(bytes);
      now = under_way.front().done;
      meter.end(under_way.front().started, bytes, now);
      under_way.erase(under_way.begin());
    }
  }
};

}  // namespace

TEST_CASE("a link is filled and not overfilled, whatever its rate and length", "[chunkstore]") {
  const auto [rate, round_trip, least, most] = GENERATE(table<double, int, unsigned, unsigned>({
      {125e3, 100, 1, 2},    // 1 Mbit/s, 100 ms: one object lasts longer than the round trip
      {1.25e6, 40, 1, 4},    // 10 Mbit/s, 40 ms: half an object
      {12.5e6, 40, 6, 10},   // 100 Mbit/s, 40 ms: five objects
      {1.25e9, 40, 16, 16},  // more than we ever keep under way
      {1.25e9, 0, 1, 4},     // loopback
  }));
  Link link{rate, std::chrono::milliseconds(round_trip), {}};
  link.run(100);
  CHECK(link.window() >= least);
  CHECK(link.window() <= most);
  // Filled: what 100 fetches take is hardly more than their bytes need.
  const auto began = link.now;
  link.run(100);
  const double seconds = std::chrono::duration<double>(link.now - began).count();
  if (rate < 1e9) CHECK(100 * 100'000 / seconds > 0.95 * rate);
}

TEST_CASE("a link that became slower is not overfilled for long", "[chunkstore]") {
  Link link{12.5e6, 40ms, {}};
  link.run(200);
  link.bytes_per_s = 125e3;
  link.run(60);
  CHECK(link.window() <= 2);
}

TEST_CASE("a meter without recent fetches has no window", "[chunkstore]") {
  Link link{12.5e6, 40ms, {}};
  CHECK_FALSE(link.meter.window(link.now).has_value());
  link.run(20);
  CHECK(link.meter.window(link.now).has_value());
  CHECK_FALSE(link.meter.window(link.now + 20s).has_value());
}

TEST_CASE("small objects need a larger window than large ones", "[chunkstore]") {
  Link small{12.5e6, 40ms, {}};
  Link large{12.5e6, 40ms, {}};
  small.run(200, 30'000);
  large.run(200, 130'000);
  CHECK(small.window() > large.window());
}
