#pragma once

#include <set>

#include "base/sync.h"
#include "chunkstore/pack_store.h"

namespace isr {

/// Removes objects from a session's settled store once nothing needs them, because newer ones have replaced them.
/// Objects that a publish has sealed but not yet sent are kept meanwhile.
///
/// Threads: keep() and release() beside sweep(); one sweep at a time.
class SettledSweep {
 public:
  /// Call before the object is put, or while something else still needs it. No sweep removes it until release().
  void keep(const Cid& cid) { kept_.lock()->cids.insert(cid); }
  /// From now on has_more() is true until the objects that were kept in vain are removed.
  void release();
  /// Removes the objects that are not in `needed` and were not needed at the last sweep either, so that a caller that
  /// has just found an object can still use it. The records that make objects unneeded must be durable.
  void sweep(PackStore& store, const std::set<Cid>& needed);
  /// True when the next two sweeps may have something to remove.
  bool has_more() const { return !unneeded_.empty() || kept_.lock()->was_released; }

 private:
  struct Kept {
    std::set<Cid> cids;
    bool was_released = false;  ///< since the last sweep
  };
  Sync<Kept> kept_;
  std::set<Cid> unneeded_;  ///< since the last sweep
};

}  // namespace isr
