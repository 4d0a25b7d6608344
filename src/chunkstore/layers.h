#pragma once

#include <string>
#include <vector>

#include "chunkstore/object_source.h"
#include "chunkstore/pack_store.h"
#include "chunkstore/source_stats.h"
#include "repository/blob_store.h"

namespace isr {

/// How much of what a tier gives is believed.
enum class Trust {
  kOwn,        ///< isr keeps it on this host: not hashed here, because the tag proves it when it is opened
  kClaimed,    ///< hashed against the cid first; a damaged object counts as absent
  kAuthority,  ///< hashed likewise; a damaged object is Error{kCorrupt}
};

/// One source of a stack, and what the stack must know of it.
struct Tier {
  std::string name;  ///< in statistics; unlike those of the other tiers
  SourcePtr source;
  Trust trust = Trust::kClaimed;
  std::shared_ptr<PackStore> keeps{};  ///< what a later tier gives is put there; null: this tier keeps nothing
};

/// objects/… of a store. Absent there is nullopt.
SourcePtr make_repository_source(BlobStorePtr store);
/// Asks one after the other. A tier's failure is remembered and the next is
/// asked; if none has it, the worst failure is thrown, or nullopt. The worst is kIo: a
/// tier has the object and cannot read it. Refuses and counts what does not hash to the cid, as its Trust says.
SourcePtr make_tiered(std::vector<Tier> tiers, SourceStats& stats);
/// One fetch per cid however many ask. One caller's cancellation does not fail the others, and who
/// waits for a fetch of a lower priority tries itself when that fails.
SourcePtr make_coalescing(SourcePtr inner);

}  // namespace isr
