#pragma once

#include <atomic>
#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "base/sync.h"
#include "chunkstore/link_meter.h"

namespace isr {

/// Counts the objects that one tier of a stack gave.
struct TierStats {
  explicit TierStats(std::string_view tier_name) : name(tier_name) {}
  const std::string name;
  std::atomic<std::uint64_t> hits{0}, bytes{0};  ///< objects, and their stored bytes
  std::atomic<std::uint64_t> guest_hits{0};      ///< objects that a guest waited for
  std::atomic<std::uint64_t> corrupt_refused{0};
};

/// Counts the objects from each tier of a stack; shown by stat and stats.json. It must outlive the stack. Several
/// stacks may share one: tiers of the same name are counted together.
///
/// Threads: any.
class SourceStats {
 public:
  /// The counters of the tier with this name. The first call makes them; they live as long as this object.
  TierStats& tier(std::string_view name);
  /// In order of creation, which is the order in which tiers are asked.
  std::vector<const TierStats*> tiers() const;

  std::atomic<std::uint64_t> retries{0};  ///< retries of fetches that wait for the network
  std::atomic<std::uint64_t> waiting{0};  ///< fetches that wait for the network now
  Sync<std::string> waiting_for;          ///< why the last of them began to wait
  LinkMeter link;                         ///< measures the fetches from the repository

 private:
  mutable Sync<std::list<TierStats>> tiers_;
};

/// The counts of one tier at one moment.
struct TierTotals {
  std::string name;
  std::uint64_t hits = 0;   ///< objects
  std::uint64_t bytes = 0;  ///< of them, as stored
  std::uint64_t guest_hits = 0;
  std::uint64_t corrupt_refused = 0;
};
/// Where objects came from, at one moment: totals of the tiers that every stack has, and the counts of each tier.
struct FetchStats {
  std::uint64_t cache_hits = 0;
  std::uint64_t settled_hits = 0;
  std::uint64_t repository_fetches = 0;
  std::uint64_t repository_bytes = 0;
  std::uint64_t guest_fetches = 0;  ///< fetches from the repository that the guest waited for
  std::uint64_t corrupt_refused = 0;
  std::uint64_t waiting = 0;  ///< fetches that wait for the repository now
  std::string waiting_for;    ///< why the last of them began to wait, as text
  std::vector<TierTotals> tiers;
};
FetchStats fetch_stats(const SourceStats& stats);

}  // namespace isr
