#pragma once

#include <atomic>
#include <unordered_map>

#include "base/sync.h"
#include "chunkstore/pack_index.h"
#include "chunkstore/pack_store.h"

namespace isr {

/// Maps objects to their places in the packs of a store: the index, and changes that are not in it yet. Changes are
/// first noted in memory; commit() writes them to the index in batches. After a crash before that, new objects are in
/// their pack, where the next opening finds them, and some rows lead nowhere, which readers notice.
///
/// Reads have a connection of their own, which never writes and never waits for a writer.
///
/// Errors:  Error{kIo}. kCorrupt is repaired by making a new index from the packs: at once when durable, else by the
///          next commit().
/// Threads: any.
class PackCatalog {
 public:
  /// Does not use the disk. The directory must be absolute.
  PackCatalog(fs::path directory, const PackStoreOptions& options);

  /// Opens the index and makes it agree with the packs. Does that once more when the index was replaced. Waits up to
  /// `wait` for another process that is doing so.
  void open(std::chrono::milliseconds wait);
  /// Sets the index aside and makes a new one from the packs.
  void rebuild();
  /// False when the last opening failed; find() then knows only the changes in memory.
  bool is_open() const noexcept { return is_open_; }
  /// True when another file is at the index's path.
  bool is_replaced() const;

  // --- reading
  std::optional<PackPlace> find(const Cid& cid);
  std::vector<Cid> all();
  /// The least recently used objects, without those for which `keep` returns true.
  std::vector<PackIndex::Entry> least_recent(std::uint64_t bytes, const std::function<bool(const Cid&)>& keep);
  struct Totals {
    std::uint64_t objects = 0, bytes = 0;
  };
  Totals totals();   ///< includes changes that are not in the index yet
  Totals indexed();  ///< the index only, thus the changes of all processes

  // --- noting, in memory
  void add(const Cid& cid, const PackPlace& place);
  /// Removes the row, because the object is not at that place. Returns false when no row led there any more.
  bool forget(const Cid& cid, const PackPlace& place);
  void note_use(const Cid& cid);
  /// Forgets every object of that pack from that offset on.
  void take_back(std::int64_t pack, std::uint64_t from);
  void forget_uncommitted();
  /// True when a batch is full or old enough, or the index must be opened or repaired.
  bool is_commit_due() const;

  // --- writing
  /// Writes the noted changes to the index. Times of use that cannot be written are dropped.
  void commit();
  /// Removes objects and returns those that were there.
  std::vector<PackIndex::Entry> remove(std::span<const Cid> cids);
  /// Forgets a pack unless it has an object. Returns true when it was forgotten.
  bool forget_if_empty(std::int64_t pack);

 private:
  using Clock = std::chrono::steady_clock;
  using Places = std::unordered_map<Cid, PackPlace, FixedBytesHash>;
  /// Lock writing_ and reading_ first.
  struct Added {
    PackPlace place;
    std::int64_t time = 0;
  };
  struct Noted {
    std::unordered_map<Cid, Added, FixedBytesHash> added;
    Places wrong;  ///< rows that lead nowhere
    std::unordered_map<Cid, std::int64_t, FixedBytesHash> used;
    Clock::time_point oldest;
    bool is_index_damaged = false;
  };
  struct Batch {
    std::vector<PackIndex::Entry> removed;
    std::vector<PackIndex::Added> added;
    std::vector<PackIndex::Use> used;
  };
  using IndexPtr = std::unique_ptr<PackIndex>;

  std::unique_ptr<PackIndex> open_index() const;
  void open_locked(IndexPtr& writing, std::chrono::milliseconds wait);
  void rebuild_locked(IndexPtr& writing);
  template <class F>
  auto read(F f);
  template <class F>
  auto write(F f);
  std::int64_t next_time();
  Batch take_batch();
  void committed(const Batch& batch);

  fs::path directory_;
  fs::path index_file_;
  bool durable_;
  std::atomic<bool> is_open_ = false;
  std::atomic<std::int64_t> last_time_ = 0;  // microseconds since 1970

  // Lock in this order:
  Sync<IndexPtr> writing_;
  mutable Sync<IndexPtr> reading_;
  mutable Sync<Noted> noted_;
};

}  // namespace isr
