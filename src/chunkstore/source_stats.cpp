#include "chunkstore/source_stats.h"

#include <algorithm>

namespace isr {

TierStats& SourceStats::tier(std::string_view name) {
  auto tiers = tiers_.lock();
  const auto known =
      std::find_if(tiers->begin(), tiers->end(), [&](const TierStats& tier) { return tier.name == name; });
  return known == tiers->end() ? tiers->emplace_back(name) : *known;
}

std::vector<const TierStats*> SourceStats::tiers() const {
  std::vector<const TierStats*> out;
  for (const TierStats& tier : *tiers_.lock()) out.push_back(&tier);
  return out;
}

FetchStats fetch_stats(const SourceStats& stats) {
  FetchStats out;
  for (const TierStats* tier : stats.tiers()) {
    const TierTotals& totals = out.tiers.emplace_back(
        TierTotals{tier->name, tier->hits, tier->bytes, tier->guest_hits, tier->corrupt_refused});
    out.corrupt_refused += totals.corrupt_refused;
    if (tier->name == "cache") out.cache_hits = totals.hits;
    if (tier->name == "settled") out.settled_hits = totals.hits;
    if (tier->name == "repository") {
      out.repository_fetches = totals.hits;
      out.repository_bytes = totals.bytes;
      out.guest_fetches = totals.guest_hits;
    }
  }
  out.waiting = stats.waiting;
  out.waiting_for = *stats.waiting_for.lock();
  return out;
}

}  // namespace isr
