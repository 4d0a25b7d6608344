#include "image/settled_sweep.h"

#include <vector>

namespace isr {

void SettledSweep::release() {
  auto kept = kept_.lock();
  kept->was_released = kept->was_released || !kept->cids.empty();
  kept->cids.clear();
}

void SettledSweep::sweep(PackStore& store, const std::set<Cid>& needed) {
  std::set<Cid> unneeded;
  std::vector<Cid> removed;
  // Held until the objects are removed: a later keep() then finds its object gone, and the caller puts it again.
  auto kept = kept_.lock();
  kept->was_released = false;
  for (const Cid& cid : store.all()) {
    if (needed.contains(cid) || kept->cids.contains(cid)) continue;
    if (unneeded_.contains(cid)) {
      removed.push_back(cid);
    } else {
      unneeded.insert(cid);
    }
  }
  unneeded_ = std::move(unneeded);
  if (removed.empty()) return;
  store.remove(removed);
  store.sync();
}

}  // namespace isr
