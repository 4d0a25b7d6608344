#pragma once

#include <unordered_set>

#include "base/file.h"
#include "chunkstore/object.h"

namespace isr {

/// Objects of a cache that no process evicts, because somebody counts on their being here. Each
/// owner has one list, docs/formats/cache.md; it counts for as long as the owner's path exists.
///
/// Errors:  pin(): Error{kIo}, then what was pinned before is. all() never throws: what cannot be
///          read pins nothing.
/// Threads: any; one at a time for one object of this class.
class CachePins {
 public:
  explicit CachePins(const fs::path& cache) : directory_(cache / "pins") {}

  /// In place of what `name` has pinned before. `owner`: absolute.
  void pin(const std::string& name, const fs::path& owner, std::span<const Cid> cids);
  /// What is pinned now; kept until a list changes. Removes the lists of owners that are gone.
  const std::unordered_set<Cid, FixedBytesHash>& all();

 private:
  fs::path directory_;
  std::string seen_;  ///< which lists all_ is of
  std::vector<fs::path> owners_;
  std::unordered_set<Cid, FixedBytesHash> all_;
};

}  // namespace isr
