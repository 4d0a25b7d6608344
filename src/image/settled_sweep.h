#pragma once

#include <set>

#include "base/sync.h"
#include "chunkstore/pack_store.h"

namespace isr {

/// Takes objects out of a session's settled store once nothing needs them: others have taken their place.
/// What a publish has sealed and not yet sent is kept meanwhile.
///
/// Threads: keep() and release() beside sweep(); one sweep at a time.
class SettledSweep {
 public:
  /// Before the object is put, or while something else still needs it: no sweep takes it until release().
  void keep(const Cid& cid) { kept_.lock()->insert(cid); }
  void release() { kept_.lock()->clear(); }
  /// Removes what is not in `needed`, and was not at the last sweep either: whoever has just learned
  /// of an object finds it. The records that make objects unneeded are durable.
  void sweep(PackStore& store, const std::set<Cid>& needed);
  /// The next sweep has something to remove.
  bool has_more() const { return !unneeded_.empty(); }

 private:
  Sync<std::set<Cid>> kept_;
  std::set<Cid> unneeded_;  ///< at the last sweep
};

}  // namespace isr
