#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "base/sqlite.h"
#include "chunkstore/pack_file.h"

namespace isr {

/// Which record holds which object: a SQLite file shared by all processes that
/// use the store. Its rows are hints; readers check the record.
///
/// Reading never waits for who writes. Writing waits up to `patience` for another process's transaction.
///
/// Errors:  Error{kCorrupt} when SQLite finds the file damaged, kIo for the rest;
///          opening: kUnsupported for a newer schema.
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
    std::int64_t time = 0;  ///< of use
  };
  struct Batch {
    std::span<const Entry> removed{};  ///< those that are at that place still
    std::span<const Added> added{};    ///< those whose cid is not there already, once `removed` is gone
    std::span<const Use> used{};       ///< a time that is earlier than the row's is left out
  };

  /// It was made by this opening, so nothing that lies in the packs is in it.
  bool is_new() const noexcept { return is_new_; }
  /// The file at the path is no longer the one that is open.
  bool replaced() const;
  void check_integrity();  ///< Error{kCorrupt}; reads it all
  std::optional<PackPlace> find(const Cid& cid);
  std::vector<Cid> all();
  std::int64_t last_access();

  /// One transaction. A pack's end grows to the end of its last added entry.
  void commit(const Batch& batch);
  void set_pack_end(std::int64_t pack, std::uint64_t end);
  /// What was removed of cids.
  std::vector<Entry> remove(std::span<const Cid> cids);
  /// The least recently used objects, `bytes` of them or a little more, without those to be kept.
  std::vector<Entry> least_recent(std::uint64_t bytes, const std::function<bool(const Entry&)>& keep);

  std::vector<PackRow> packs();
  /// Forgets a pack unless an object is in it. True when it is forgotten.
  bool forget_if_empty(std::int64_t pack);
  void forget(std::int64_t pack);  ///< with its objects: the file is gone

 private:
  void remove_one(const Entry& entry);

  fs::path file_;
  Database db_;
  bool is_new_ = false;
  std::uint64_t inode_ = 0;
  struct Statements;
  std::unique_ptr<Statements, void (*)(Statements*)> sql_;
};

/// Renames a damaged index so that a new one can be begun. Nothing when there is none.
void set_index_aside(const fs::path& file);

}  // namespace isr
