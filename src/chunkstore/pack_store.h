#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

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
};

/// Sealed objects in append-only pack files, found through a SQLite index
/// (docs/decisions: cache layout). Index rows are hints: fetch() gives what
/// the pack has at that place, checked against the cid; a row that is wrong is
/// dropped and means absent. docs/formats/cache.md.
///
/// The directory belongs to the store alone.
///
/// Errors:  fetch() and contains() never throw for damage, they forget what is
///          damaged; when durable they throw Error{kIo} for what could not be read.
///          put() and sync() throw kIo when there is no space or the directory was
///          replaced; a cache that was deleted while in use is begun anew. After a
///          failed sync() nothing put since the last one counts as stored. While
///          another process repairs a cache's index for longer than index_wait,
///          the cache is empty and put() throws kIo; nobody waits once more.
///          Opening: kUnsupported for a newer format or one that is not ours
///          (nothing is deleted); kDenied for a symlink; kVm for a durable store
///          that another process has open. A damaged index is set aside and made
///          anew from the packs; then, when durable, every object is verified.
/// Threads: any. Processes: several may use one store that is not durable.
class PackStore : public ObjectSource {
 public:
  ~PackStore() override;
  virtual bool contains(const Cid& cid) = 0;
  /// Appends unless present. The bytes must hash to cid: whoever fetched or sealed them has seen to that, and
  /// hashing them again would cost more than all the rest.
  virtual void put(const Cid& cid, ByteView object) = 0;
  /// Flushes batched index rows; durable stores: fdatasync first.
  virtual void sync() = 0;
  virtual void remove(std::span<const Cid> cids) = 0;
  virtual std::vector<Cid> all() = 0;
  struct Stats {
    std::uint64_t objects = 0, bytes = 0, evicted = 0;
  };
  virtual Stats stats() = 0;
};
std::shared_ptr<PackStore> open_pack_store(const std::filesystem::path& directory, const PackStoreOptions& options);

}  // namespace isr
