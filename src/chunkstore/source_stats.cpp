#include "chunkstore/source_stats.h"

#include <algorithm>
#include <nlohmann/json.hpp>

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

nlohmann::json to_json(const SourceStats& stats) {
  nlohmann::json out{{"cache_hits", 0},       {"settled_hits", 0},  {"repository_fetches", 0},
                     {"repository_bytes", 0}, {"guest_fetches", 0}, {"tiers", nlohmann::json::array()}};
  std::uint64_t corrupt_refused = 0;
  for (const TierStats* tier : stats.tiers()) {
    const std::uint64_t hits = tier->hits;
    const std::uint64_t bytes = tier->bytes;
    const std::uint64_t guest_hits = tier->guest_hits;
    const std::uint64_t refused = tier->corrupt_refused;
    corrupt_refused += refused;
    if (tier->name == "cache") out["cache_hits"] = hits;
    if (tier->name == "settled") out["settled_hits"] = hits;
    if (tier->name == "repository") {
      out["repository_fetches"] = hits;
      out["repository_bytes"] = bytes;
      out["guest_fetches"] = guest_hits;
    }
    out["tiers"].push_back({{"name", tier->name},
                            {"hits", hits},
                            {"bytes", bytes},
                            {"guest_hits", guest_hits},
                            {"corrupt_refused", refused}});
  }
  out["corrupt_refused"] = corrupt_refused;
  out["waiting"] = stats.waiting.load();
  out["waiting_for"] = *stats.waiting_for.lock();
  return out;
}

}  // namespace isr
