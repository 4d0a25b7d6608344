#pragma once

#include <chrono>
#include <vector>

#include "chunkstore/layers.h"

namespace isr {

/// The behaviour of a read while no source can be reached.
enum class Unreachable {
  kFail,  ///< fails after the retries: Error{kOffline}
  kWait,  ///< repeats until the object is there or stop is requested; damage and absence still fail,
          ///< as does a fetch that no read waits for: is_awaited()
};

/// The standard tiers of isr. First the objects that are durable on this host and not published yet:
Tier settled_tier(std::shared_ptr<PackStore> settled);
/// Objects that were fetched before. It keeps copies of the objects that later tiers give.
Tier cache_tier(std::shared_ptr<PackStore> cache);
/// The repository, which comes last. `link` measures its fetches and must outlive the tier.
Tier repository_tier(BlobStorePtr store, LinkMeter& link);

struct StackOptions {
  Unreachable unreachable = Unreachable::kFail;
  std::chrono::milliseconds first_wait{500};  ///< kWait: the pause before the first retry; it doubles
  std::chrono::milliseconds max_wait{10'000};
};
/// Makes one source of the tiers, which are asked in their order, with one fetch for each cid. Without a tier that is
/// Trust::kAuthority the source is offline: an absent object fails at once with kOffline. When the authority does not
/// have an object, the result is nullopt. When the disk cannot read a settled object (EIO) and the repository does not
/// have it now, the result is Error{kIo} at once, even with kWait: until it is published it exists nowhere else, so
/// waiting might never end.
SourcePtr open_stack(std::vector<Tier> tiers, SourceStats& stats, const StackOptions& options = {});

}  // namespace isr
