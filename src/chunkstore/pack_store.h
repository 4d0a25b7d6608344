#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/room.h"
#include "chunkstore/object_source.h"

namespace isr {

struct PackStoreOptions {
  /// Durable: after sync() every object put before survives a power cut (packs fdatasync'ed, index synchronous=FULL).
  /// Otherwise a power cut may lose or damage objects, and the store is only a cache.
  bool durable = false;
  std::uint64_t limit_bytes = 0;  ///< least recently used objects are evicted above it; 0: no limit; not when durable
  std::uint64_t min_free_bytes = 0;            ///< and when the disk has less than this free; not when durable
  std::uint64_t pack_size = 64U << 20U;        ///< a new pack file begins at this size
  std::chrono::milliseconds index_wait{5000};  ///< wait for another process that creates or repairs a cache's index
  MakeRoom make_room{};  ///< called when the disk is full, before put() and sync() fail; durable only
};

/// Sealed objects in append-only pack files, found through a SQLite index (docs/decisions: cache layout). Index rows
/// are hints: fetch() reads the pack at that place and checks the object against the cid. A wrong row is dropped, and
/// the object counts as absent. docs/formats/cache.md.
///
/// The directory belongs to the store alone.
///
/// A cache costs time, but never makes an operation fail: fetch(), contains(), put() and sync() do not throw because of
/// its disk or its index (no space, read-only, damaged, another process inside a transaction). Unreadable objects count
/// as absent, objects that cannot be written are left out, and the first such failure is one warning. Reads and put()
/// never wait until the index is written: a thread of the store's own does that, and it also opens a cache that could
/// not be opened before. A cache that was deleted while in use is begun anew.
///
/// Objects in a list in `pins` (CachePins) are never evicted. When the disk has less than min_free_bytes free and all
/// remaining objects are pinned, put() leaves objects out.
///
/// A durable store throws Error{kIo} from put() and sync() when there is no space or the directory was replaced, and
/// from fetch() when an object is there but unreadable or damaged, until it is put again. After a failed sync() no
/// object put since the last successful one counts as stored.
///
/// Errors:  put(): kBug when the bytes cannot be an object. Opening: kUnsupported for a newer format or a directory
///          that is not a store of isr (nothing is deleted); kDenied for a symlink; for a durable store kVm when
///          another process has it open, and kIo. A damaged index is set aside and made again from the packs; when
///          durable, every object is then verified.
/// Threads: any. Processes: several may use one store that is not durable.
class PackStore : public ObjectSource {
 public:
  ~PackStore() override;
  virtual bool contains(const Cid& cid) = 0;
  /// Appends the object unless it is present. The bytes must hash to cid. The caller guarantees that, because hashing
  /// them again would cost more than everything else here.
  virtual void put(const Cid& cid, ByteView object) = 0;
  /// Flushes batched index rows. Durable stores call fdatasync first; caches evict the excess.
  virtual void sync() = 0;
  virtual void remove(std::span<const Cid> cids) = 0;
  virtual std::vector<Cid> all() = 0;
  struct Stats {
    std::uint64_t objects = 0, bytes = 0, evicted = 0;
  };
  virtual Stats stats() = 0;
  /// How many syncs have failed. A failed sync loses the objects that all threads have put since the last successful
  /// one. So a successful sync() proves that an object is durable only if this number has not changed since before its
  /// put().
  virtual std::uint64_t failed_syncs() const { return 0; }
};
std::shared_ptr<PackStore> open_pack_store(const std::filesystem::path& directory, const PackStoreOptions& options);

}  // namespace isr
