#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "base/sync.h"
#include "chunkstore/link_meter.h"
#include "chunkstore/object_source.h"
#include "chunkstore/pack_store.h"
#include "repository/blob_store.h"

namespace isr {

/// Counts what each tier gave; shown by stat and stats.json. Lives as long as the
/// stack. `waiting` is how many fetches wait for the network now.
struct SourceStats {
  std::atomic<std::uint64_t> cache_hits{0}, settled_hits{0}, repository_fetches{0}, repository_bytes{0},
      corrupt_refused{0}, retries{0}, waiting{0};
  std::atomic<std::uint64_t> guest_fetches{0};  ///< of the repository's: a guest waited for them
  Sync<std::string> waiting_for;                ///< why the last of them began to wait
  LinkMeter link;                               ///< of the fetches from the repository
};

/// objects/… of a store. Absent there is nullopt.
SourcePtr make_repository_source(BlobStorePtr store);
/// Refuses what does not hash to the cid: Error{kCorrupt} naming cid and source.
SourcePtr make_verifying(SourcePtr inner, SourceStats& stats);
/// Asks one after the other. A tier's failure is remembered and the next is
/// asked; if none has it, the worst failure is thrown, or nullopt. The worst is kIo: a
/// tier has the object and cannot read it. A damaged copy counts as none, except in the
/// last tier, which is the authority.
SourcePtr make_tiered(std::vector<SourcePtr> tiers);
/// Whatever `origin` brings goes into the cache; the cache is asked first.
SourcePtr make_caching(std::shared_ptr<PackStore> cache, SourcePtr origin, SourceStats& stats);
/// One fetch per cid however many ask. One caller's cancellation does not fail the others, and who
/// waits for a fetch of a lower priority tries itself when that fails.
SourcePtr make_coalescing(SourcePtr inner);

/// What a read does while no source can be reached.
enum class Unreachable {
  kFail,  ///< after the retries: Error{kOffline}
  kWait,  ///< go on asking until it is there or stop is requested; damage and absence still fail,
          ///< and so does what nobody waits for: is_awaited()
};

/// Everything above, wired: settled (may be null), then cache, then repository
/// (null when offline: what is not here fails at once with kOffline), verified
/// and coalesced. An object that the repository does not have is nullopt. A settled object that the disk does not
/// give back (EIO), and that cannot be had from the repository now, is Error{kIo} at once, also under kWait: until it
/// is published it exists nowhere else, so waiting might never end. The only place that knows every concrete tier.
struct StackParts {
  std::shared_ptr<PackStore> settled;
  std::shared_ptr<PackStore> cache;
  BlobStorePtr repository;
  Unreachable unreachable = Unreachable::kFail;
  std::chrono::milliseconds first_wait{500};  ///< kWait: the pause before the first retry; it doubles
  std::chrono::milliseconds max_wait{10'000};
};
SourcePtr open_stack(const StackParts& parts, SourceStats& stats);

}  // namespace isr
