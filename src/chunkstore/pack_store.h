#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/room.h"
#include "chunkstore/object_source.h"

namespace isr {

struct PackStoreOptions {
  /// Durable: sync() means that every object put before it survives a power cut
  /// (packs fdatasync'ed, index synchronous=FULL). Otherwise the content may be
  /// lost or damaged by one and is only a cache.
  bool durable = false;
  std::uint64_t limit_bytes = 0;         ///< least recently used objects go above it; 0: no limit; never when durable
  std::uint64_t min_free_bytes = 0;      ///< and when the file system has less than this free; never when durable
  std::uint64_t pack_size = 64U << 20U;  ///< a new pack file begins at this size
  std::chrono::milliseconds index_wait{5000};  ///< for another process that creates or repairs a cache's index
  MakeRoom make_room{};                        ///< asked when the disk is full, before put() and sync() fail; durable
};

/// Sealed objects in append-only pack files, found through a SQLite index
/// (docs/decisions: cache layout). Index rows are hints: fetch() gives what
/// the pack has at that place, checked against the cid; a row that is wrong is
/// dropped and means absent. docs/formats/cache.md.
///
/// The directory belongs to the store alone.
///
/// A cache costs time, never an operation: fetch(), contains(), put() and sync() do not throw for
/// what its disk or its index refuses (no space, read-only, damaged, another process inside a
/// transaction). What cannot be read is absent, what cannot be written is left out, and the first
/// such failure is one warning. Reads and put() never wait for the index to be written: that is
/// done by a thread of the store's own, which also opens a cache that could not be opened yet. A
/// cache that was deleted while in use is begun anew.
///
/// What a list in `pins` names (CachePins) is never evicted. When less than min_free_bytes is left on the disk and all
/// that is left in the cache is pinned, put() leaves objects out.
///
/// A durable store throws Error{kIo} from put() and sync() when there is no space or the directory
/// was replaced, and from fetch() for an object that is there and cannot be read or is damaged,
/// until it is put again. After a failed sync() nothing put since the last one counts as stored.
///
/// Errors:  put(): kBug for what cannot be an object. Opening: kUnsupported for a newer format or
///          one that is not ours (nothing is deleted); kDenied for a symlink; for a durable store
///          kVm when another process has it open, and kIo. A damaged index is set aside and made
///          anew from the packs; then, when durable, every object is verified.
/// Threads: any. Processes: several may use one store that is not durable.
class PackStore : public ObjectSource {
 public:
  ~PackStore() override;
  virtual bool contains(const Cid& cid) = 0;
  /// Appends unless present. The bytes must hash to cid: whoever fetched or sealed them has seen to that, and
  /// hashing them again would cost more than all the rest.
  virtual void put(const Cid& cid, ByteView object) = 0;
  /// Flushes batched index rows; durable stores: fdatasync first. Caches: evicts what is too much.
  virtual void sync() = 0;
  virtual void remove(std::span<const Cid> cids) = 0;
  virtual std::vector<Cid> all() = 0;
  struct Stats {
    std::uint64_t objects = 0, bytes = 0, evicted = 0;
  };
  virtual Stats stats() = 0;
  /// How many syncs have failed; a failed one takes what every thread has put since the last. So a sync() that succeeds
  /// says that one's objects are durable only if this was the same before they were put.
  virtual std::uint64_t failed_syncs() const { return 0; }
};
std::shared_ptr<PackStore> open_pack_store(const std::filesystem::path& directory, const PackStoreOptions& options);

}  // namespace isr
