#pragma once

#include <unordered_set>

#include "base/file.h"
#include "chunkstore/object.h"

namespace isr {

/// The objects of a cache that no process evicts, because their owners rely on them. Each owner has one list
/// (docs/formats/cache.md), which is valid as long as the owner's path exists.
///
/// Errors:  pin() throws Error{kIo} and leaves the previous list in place. all() never throws: an unreadable list pins
///          nothing.
/// Threads: any; one at a time for one object of this class.
class CachePins {
 public:
  explicit CachePins(const fs::path& cache) : directory_(cache / "pins") {}

  /// Replaces the objects that `name` has pinned before. `owner` must be absolute.
  void pin(const std::string& name, const fs::path& owner, std::span<const Cid> cids);
  /// All pinned objects. The result is kept until a list changes. Removes the lists of owners that are gone.
  const std::unordered_set<Cid, FixedBytesHash>& all();

 private:
  fs::path directory_;
  std::string seen_;  ///< identifies the lists from which all_ was made
  std::vector<fs::path> owners_;
  std::unordered_set<Cid, FixedBytesHash> all_;
};

}  // namespace isr
