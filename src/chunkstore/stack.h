#pragma once

#include <chrono>
#include <vector>

#include "chunkstore/layers.h"

namespace isr {

/// The behaviour of a read while no source can be reached.
enum class Unreachable {
  kFail,  ///< after the retries: Error{kOffline}
  kWait,  ///< go on asking until it is there or stop is requested; damage and absence still fail,
          ///< and so does a fetch that no read waits for: is_awaited()
};

/// The tiers that isr always knows. Objects that are durable here and not published yet:
Tier settled_tier(std::shared_ptr<PackStore> settled);
/// Objects that were fetched lately. It keeps what the tiers behind it give.
Tier cache_tier(std::shared_ptr<PackStore> cache);
/// The repository, which comes last. `link` learns from its fetches and must outlive the tier.
Tier repository_tier(BlobStorePtr store, LinkMeter& link);

struct StackOptions {
  Unreachable unreachable = Unreachable::kFail;
  std::chrono::milliseconds first_wait{500};  ///< kWait: the pause before the first retry; it doubles
  std::chrono::milliseconds max_wait{10'000};
};
/// Tiers, asked in their order, as one source with one fetch per cid. Without a tier that is Trust::kAuthority it is
/// offline: what is not here fails at once with kOffline. An object that the authority does not have is nullopt. A
/// settled object that the disk does not give back (EIO), and that cannot be had from the repository now, is
/// Error{kIo} at once, also under kWait: until it is published it exists nowhere else, so waiting might never end.
SourcePtr open_stack(std::vector<Tier> tiers, SourceStats& stats, const StackOptions& options = {});

}  // namespace isr
