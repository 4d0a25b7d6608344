#pragma once

#include <chrono>
#include <unordered_map>

#include "chunkstore/pack_index.h"
#include "chunkstore/pack_store.h"

namespace isr {

/// Which object is where in the packs of a store: the index, and what is not in
/// it yet. Objects just written are found here until a batch of them goes into
/// the index. A crash before that leaves them in their pack, where the next
/// opening finds them. A call that finds the index damaged makes a new one from
/// the packs and goes on with that.
///
/// Errors:  Error{kIo}, also while another process repairs a cache's index.
/// Threads: one at a time: put it in a Sync<>.
class PackCatalog {
 public:
  /// Reads and writes nothing. The directory is absolute.
  PackCatalog(fs::path directory, const PackStoreOptions& options);

  /// Opens the index and makes it agree with the packs, once more when it was replaced.
  void open();
  /// Sets the index aside and makes a new one from the packs.
  void rebuild();
  /// Another process repairs the index and takes long: there is none, and nobody waits any more.
  bool is_taken() const noexcept { return is_taken_; }
  /// There is no index open, or it is no longer the one at its path.
  bool is_replaced() const { return !index_ || index_->replaced(); }

  std::optional<PackPlace> find(const Cid& cid);
  /// Microseconds since 1970, later than any before and than what was in the index when it was opened.
  std::int64_t next_time();
  void add(const Cid& cid, const PackPlace& place);
  bool batch_is_due() const;
  void commit();  ///< puts into the index what is not in it yet

  /// What was removed of cids.
  std::vector<PackIndex::Entry> remove(std::span<const Cid> cids);
  /// False when nothing led to that place any more.
  bool remove_if_at(const Cid& cid, const PackPlace& place);
  std::vector<PackIndex::Entry> remove_least_recent(std::uint64_t bytes);
  /// Their bytes are gone. Commits nothing.
  void take_back(std::span<const Cid> cids);
  void forget_uncommitted() noexcept { pending_.clear(); }

  void begin_pack(std::int64_t pack);
  /// Forgets a pack unless an object is in it. True when it is forgotten.
  bool forget_if_empty(std::int64_t pack);

  std::vector<Cid> all();
  struct Totals {
    std::uint64_t objects = 0, bytes = 0;
  };
  Totals totals();
  Totals indexed();  ///< of what is in the index, thus of all processes

 private:
  using Clock = std::chrono::steady_clock;

  template <class F>
  auto with_index(F f);

  fs::path directory_;
  fs::path index_file_;
  bool durable_;
  std::chrono::milliseconds index_wait_;

  std::unique_ptr<PackIndex> index_;
  std::unordered_map<Cid, PackPlace, FixedBytesHash> pending_;
  Clock::time_point oldest_pending_;
  std::int64_t last_time_ = 0;
  bool is_taken_ = false;
};

}  // namespace isr
