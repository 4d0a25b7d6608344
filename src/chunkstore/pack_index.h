#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "base/sqlite.h"
#include "chunkstore/pack_file.h"

namespace isr {

/// Maps objects to records: a SQLite file that all processes using the store share. Its rows are hints; readers check
/// the record.
///
/// Reading never waits for a writer. Writing waits up to `patience` for another process's transaction.
///
/// Errors:  Error{kCorrupt} when SQLite finds the file damaged, kIo for the rest; opening: kUnsupported for a newer
///          schema.
/// Threads: one at a time.
class PackIndex {
 public:
  PackIndex(const fs::path& file, Durability durability, std::chrono::milliseconds patience);
  ~PackIndex();
  PackIndex(const PackIndex&) = delete;
  PackIndex& operator=(const PackIndex&) = delete;

  struct Entry {
    Cid cid;
    PackPlace place;
  };
  struct PackRow {
    std::int64_t id = 0;
    std::uint64_t end = 0;  ///< the records before it are in the index, or were removed
    std::uint64_t live = 0;
    std::uint64_t bytes = 0;
  };
  struct Use {
    Cid cid;
    std::int64_t time = 0;
  };
  struct Added {
    Entry entry;
    std::int64_t time = 0;  ///< time of use
  };
  struct Batch {
    std::span<const Entry> removed{};  ///< entries to remove, if they are still at that place
    std::span<const Added> added{};    ///< entries to add, unless their cid is there after `removed` is gone
    std::span<const Use> used{};       ///< ignored when the row has a later time
  };

  /// True when this opening made the index, so that it has no rows for the existing packs.
  bool is_new() const noexcept { return is_new_; }
  /// True when another file is at the path.
  bool replaced() const;
  void check_integrity();  ///< reads the whole file; Error{kCorrupt}
  std::optional<PackPlace> find(const Cid& cid);
  std::vector<Cid> all();
  std::int64_t last_access();

  /// One transaction. A pack's end grows to the end of its last added entry.
  void commit(const Batch& batch);
  void set_pack_end(std::int64_t pack, std::uint64_t end);
  /// Removes objects and returns those that were there.
  std::vector<Entry> remove(std::span<const Cid> cids);
  /// The least recently used objects, `bytes` of them or a little more, without those that must be kept.
  std::vector<Entry> least_recent(std::uint64_t bytes, const std::function<bool(const Entry&)>& keep);

  std::vector<PackRow> packs();
  /// Forgets a pack unless it has an object. Returns true when it was forgotten.
  bool forget_if_empty(std::int64_t pack);
  void forget(std::int64_t pack);  ///< and its objects, because the file is gone

 private:
  void remove_one(const Entry& entry);

  fs::path file_;
  Database db_;
  bool is_new_ = false;
  std::uint64_t inode_ = 0;
  struct Statements;
  std::unique_ptr<Statements, void (*)(Statements*)> sql_;
};

/// Renames a damaged index so that a new one can be made. Does nothing when there is none.
void set_index_aside(const fs::path& file);

}  // namespace isr
