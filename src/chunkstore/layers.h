#pragma once

#include <string>
#include <vector>

#include "chunkstore/object_source.h"
#include "chunkstore/pack_store.h"
#include "chunkstore/source_stats.h"
#include "repository/blob_store.h"

namespace isr {

/// How far the objects of a tier are trusted.
enum class Trust {
  kOwn,        ///< isr keeps them on this host: not hashed here, because opening an object checks its tag
  kClaimed,    ///< hashed against the cid first; a damaged object counts as absent
  kAuthority,  ///< hashed, too; a damaged object is Error{kCorrupt}
};

/// One source of a stack, and the facts that the stack needs about it.
struct Tier {
  std::string name;  ///< for statistics; differs from those of the other tiers
  SourcePtr source;
  Trust trust = Trust::kClaimed;
  std::shared_ptr<PackStore> keeps{};  ///< keeps a copy of objects that later tiers give; null: this tier keeps none
};

/// Reads objects/… of a store. nullopt when absent there.
SourcePtr make_repository_source(BlobStorePtr store);
/// Asks the tiers one after the other. When a tier fails, remembers the failure and asks the next one. If no tier has
/// the object, throws the worst failure, or returns nullopt when there was none. The worst is kIo: a tier has the
/// object and cannot read it. Refuses and counts objects that do not hash to the cid, as the tier's Trust says.
SourcePtr make_tiered(std::vector<Tier> tiers, SourceStats& stats);
/// Makes one fetch for each cid, however many callers ask. The cancellation of one caller does not fail the others. A
/// caller that waits for a fetch of a lower priority tries itself when that fetch fails.
SourcePtr make_coalescing(SourcePtr inner);

}  // namespace isr
