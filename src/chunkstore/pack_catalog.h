#pragma once

#include <atomic>
#include <unordered_map>

#include "base/sync.h"
#include "chunkstore/pack_index.h"
#include "chunkstore/pack_store.h"

namespace isr {

/// Which object is where in the packs of a store: the index, and what is not in it yet. What
/// changes is noted in memory first and goes into the index in batches, by commit(). A crash
/// before that leaves new objects in their pack, where the next opening finds them, and rows
/// that lead nowhere, which readers find wrong.
///
/// Reads have a connection of their own, which never writes and never waits for a writer.
///
/// Errors:  Error{kIo}; kCorrupt is mended by making a new index from the packs: at once when
///          durable, else by the next commit().
/// Threads: any.
class PackCatalog {
 public:
  /// Reads and writes nothing. The directory is absolute.
  PackCatalog(fs::path directory, const PackStoreOptions& options);

  /// Opens the index and makes it agree with the packs, once more when it was replaced. Waits up to
  /// `wait` for another process that does so.
  void open(std::chrono::milliseconds wait);
  /// Sets the index aside and makes a new one from the packs.
  void rebuild();
  /// False: the last opening failed; find() has only what memory has.
  bool is_open() const noexcept { return is_open_; }
  /// The index is no longer the one at its path.
  bool is_replaced() const;

  // --- reading
  std::optional<PackPlace> find(const Cid& cid);
  std::vector<Cid> all();
  /// The least recently used objects, without those that `keep` is true of.
  std::vector<PackIndex::Entry> least_recent(std::uint64_t bytes, const std::function<bool(const Cid&)>& keep);
  struct Totals {
    std::uint64_t objects = 0, bytes = 0;
  };
  Totals totals();   ///< with what is not in the index yet
  Totals indexed();  ///< of what is in the index, thus of all processes

  // --- noting, in memory
  void add(const Cid& cid, const PackPlace& place);
  /// The object is not at that place: its row goes. False when nothing led there any more.
  bool forget(const Cid& cid, const PackPlace& place);
  void note_use(const Cid& cid);
  /// Forgets every object of that pack from that offset on.
  void take_back(std::int64_t pack, std::uint64_t from);
  void forget_uncommitted();
  /// A batch is full or old enough, or the index must be opened or mended.
  bool is_commit_due() const;

  // --- writing
  /// Puts into the index what was noted. Times of use that cannot be written are dropped.
  void commit();
  /// What was removed of cids.
  std::vector<PackIndex::Entry> remove(std::span<const Cid> cids);
  /// Forgets a pack unless an object is in it. True when it is forgotten.
  bool forget_if_empty(std::int64_t pack);

 private:
  using Clock = std::chrono::steady_clock;
  using Places = std::unordered_map<Cid, PackPlace, FixedBytesHash>;
  /// Locked after writing_ and reading_.
  struct Added {
    PackPlace place;
    std::int64_t time = 0;
  };
  struct Noted {
    std::unordered_map<Cid, Added, FixedBytesHash> added;
    Places wrong;  ///< rows that lead to nothing
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

  // In this order:
  Sync<IndexPtr> writing_;
  mutable Sync<IndexPtr> reading_;
  mutable Sync<Noted> noted_;
};

}  // namespace isr
