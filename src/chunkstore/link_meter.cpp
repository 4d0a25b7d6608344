#include "chunkstore/link_meter.h"

#include <algorithm>
#include <cmath>

namespace isr {
namespace {

using Seconds = std::chrono::duration<double>;
using namespace std::chrono_literals;

constexpr auto kPeriod = 5s;          // the rates of this period and of the one before are used
constexpr auto kForgotten = 15s;      // after this all measurements are forgotten
constexpr auto kProbeEvery = 20s;     // how often a fetch should run alone
constexpr auto kProbeAtMost = 250ms;  // other fetches do not wait longer for that
constexpr double kGain = 1.5;         // above 1, because a window that is too small would never show it
constexpr double kSmoothing = 1.0 / 16;
constexpr double kShortest = 1e-6;  // s; avoids a division by zero when the clock did not move

double least(double a, double b) { return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b); }

}  // namespace

LinkMeter::Started LinkMeter::begin(Time now) {
  auto state = state_.lock();
  ++state->begun;
  return {now, state->delivered, state->begun, state->under_way++ == 0};
}

void LinkMeter::begin_period(State& state, Time now) {
  if (now - state.last > kForgotten) {
    state = {.under_way = state.under_way, .begun = state.begun, .delivered = state.delivered, .period = now};
  } else if (now - state.period > kPeriod) {
    state.best_rate_before = std::exchange(state.best_rate, 0);
    state.period = now;
  }
}

void LinkMeter::end(const Started& started, std::uint64_t bytes, Time now) {
  auto state = state_.lock();
  --state->under_way;
  if (bytes == 0) return;
  begin_period(*state, now);
  state->last = now;
  state->delivered += bytes;
  state->mean_bytes += (static_cast<double>(bytes) - state->mean_bytes) * (state->mean_bytes == 0 ? 1 : kSmoothing);
  const double seconds = std::max(Seconds(now - started.at).count(), kShortest);
  // Counts the bytes of all fetches while this one was under way.
  state->best_rate = std::max(state->best_rate, static_cast<double>(state->delivered - started.delivered) / seconds);
  const bool alone = started.alone && started.number == state->begun;
  if (!alone) return;
  if (now - state->probed >= kProbeEvery) state->alone_before = std::exchange(state->alone, 0);
  state->alone = least(state->alone, seconds);
  state->probed = now;
}

std::optional<unsigned> LinkMeter::window(Time now) const {
  auto state = state_.lock();
  if (state->mean_bytes == 0 || now - state->last > kForgotten) return std::nullopt;
  const auto since_probe = now - state->probed;
  if (since_probe >= kProbeEvery && since_probe % kProbeEvery < kProbeAtMost) return 1;
  const double rate = std::max(state->best_rate, state->best_rate_before);
  const double objects = kGain * rate * least(state->alone, state->alone_before) / state->mean_bytes;
  return static_cast<unsigned>(std::clamp(std::ceil(objects), 1.0, double{kMost}));
}

}  // namespace isr
