// Three things, each behind its own lock, taken in this order:
//   writer_   the pack that this process appends to
//   catalog_  which object is where
//   open_     open packs, for reading
// Nothing is read or written in a pack with catalog_ or open_ held, and use_times_ is
// called with neither: it may wait for the index.
#include "chunkstore/pack_store.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/crypto.h"
#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "chunkstore/open_packs.h"
#include "chunkstore/pack_catalog.h"
#include "chunkstore/pack_directory.h"
#include "chunkstore/pack_space.h"
#include "chunkstore/use_times.h"

namespace isr {

PackStore::~PackStore() = default;

namespace {

constexpr unsigned kPutsPerCheck = 64;
constexpr std::uint64_t kEvictedAtOnce = 16U << 20U;  // some milliseconds, in which nothing can be read

class PackStoreImpl : public PackStore {
 public:
  PackStoreImpl(const fs::path& directory, const PackStoreOptions& options)
      : directory_(fs::absolute(directory)),
        packs_directory_(directory_ / "packs"),
        options_(options),
        catalog_(PackCatalog(directory_, options)),
        use_times_(directory_ / "index.db"),
        open_(packs_directory_) {
    prepare_pack_directory(directory_, use());
    if (options_.durable) {
      settled_lock_ = StoreLock::acquire(directory_, {});
      if (!settled_lock_) {
        throw Error(ErrorKind::kVm, fmt::format("{} is in use by another process", directory_.string()));
      }
    }
    writer_.lock()->identity = identify_directory(directory_);
    auto catalog = catalog_.lock();
    try {
      catalog->open();
    } catch (const Error&) {
      if (!catalog->is_taken()) throw;
    }
    if (options_.durable) sync_directory(directory_);
  }

  ~PackStoreImpl() override {
    try {
      commit();
    } catch (const std::exception& error) {
      log::warn("{}: {}; the next opening finds the objects by itself", describe(), error.what());
    }
  }

  std::optional<Bytes> fetch(const Cid& cid, Priority /*priority*/, std::stop_token /*stop*/) override {
    auto object = try_fetch(cid);
    if (object || !options_.durable) return object;
    // The index may be what is damaged. Settled objects are the only copy, so look properly, once.
    if (!suspicious_.exchange(false)) return std::nullopt;
    log::warn("{}: a wrong index row; reading the packs to make a new index", describe());
    catalog_.lock()->rebuild();
    return try_fetch(cid);
  }
  std::string describe() const override { return directory_.string(); }
  void drop(const Cid& cid) override;

  bool contains(const Cid& cid) override { return locate(cid).has_value(); }
  void put(const Cid& cid, ByteView object) override;
  void sync() override;
  void remove(std::span<const Cid> cids) override;
  std::vector<Cid> all() override { return catalog_.lock()->all(); }
  Stats stats() override;

 private:
  struct Writer {
    std::shared_ptr<PackFile> pack;
    std::uint64_t end = 0;
    unsigned puts_since_check = 0;
    struct Unsynced {
      std::shared_ptr<PackFile> pack;
      std::uint64_t from = 0;  // what is before it is durable
    };
    std::vector<Unsynced> unsynced_packs;  // durable only
    std::vector<Cid> unsynced;             // in them
    std::optional<DirectoryIdentity> identity;
  };

  PackUse use() const noexcept { return options_.durable ? PackUse::kSettled : PackUse::kCache; }

  std::optional<Bytes> try_fetch(const Cid& cid);
  std::optional<PackPlace> locate(const Cid& cid);
  bool is_stored(const Cid& cid, ByteView object);
  bool forget(const Cid& cid, const PackPlace& place);
  void commit();
  void dispose(std::vector<PackIndex::Entry> removed);
  void evict();
  std::uint64_t excess();

  void check_directory(Writer& writer);
  void begin_pack(Writer& writer);
  void end_pack(Writer& writer);
  void give_up_unsynced(Writer& writer);

  fs::path directory_;
  fs::path packs_directory_;
  PackStoreOptions options_;
  std::optional<StoreLock> settled_lock_;  // for life: one process only
  std::atomic<bool> suspicious_ = false;   // a row was found to be wrong
  Sync<Writer> writer_;
  Sync<PackCatalog> catalog_;
  UseTimes use_times_;  // of a cache
  OpenPacks open_;
  std::mutex evicting_;  // before all others
  std::atomic<std::uint64_t> evicted_ = 0;
};

// ---- reading ----

std::optional<PackPlace> PackStoreImpl::locate(const Cid& cid) {
  auto catalog = catalog_.lock();
  try {
    const auto place = catalog->find(cid);
    if (!place || options_.durable) return place;
    const std::int64_t now = catalog->next_time();
    if (catalog->batch_is_due() && !catalog->is_replaced()) catalog->commit();
    catalog.unlock();
    use_times_.note(cid, now);
    return place;
  } catch (const Error& error) {
    if (options_.durable) throw;
    if (!catalog->is_taken()) log::warn("{}: {}", describe(), error.what());
    return std::nullopt;
  }
}

std::optional<Bytes> PackStoreImpl::try_fetch(const Cid& cid) {
  const auto place = locate(cid);
  if (!place) return std::nullopt;
  std::shared_ptr<PackFile> pack;
  try {
    pack = open_.get(place->pack);
    if (pack) {
      if (auto object = pack->read(cid, *place)) return object;
    }
  } catch (const Error& error) {
    if (options_.durable) throw;
    log::warn("{}; asking the next source", error.what());
    if (!pack) return std::nullopt;  // perhaps out of file descriptors: no fault of the object
  }
  if (forget(cid, *place)) suspicious_ = true;
  return std::nullopt;
}

/// False when nothing led there any more: the object was removed or evicted meanwhile.
bool PackStoreImpl::forget(const Cid& cid, const PackPlace& place) {
  try {
    return catalog_.lock()->remove_if_at(cid, place);
  } catch (const Error& error) {
    log::warn("{}: {}", describe(), error.what());  // it will be found wrong again
    return true;
  }
}

void PackStoreImpl::drop(const Cid& cid) {
  try {
    const auto place = locate(cid);
    const auto object = try_fetch(cid);
    if (!place || !object || cid_of(*object) == cid) return;
    log::warn("{}: object {} is damaged, forgetting it", describe(), short_hex(cid.view()));
    forget(cid, *place);
    if (!options_.durable) dispose({{cid, *place}});  // or a scan would find it again
  } catch (const Error& error) {
    log::warn("{}: {}", describe(), error.what());
  }
}

PackStore::Stats PackStoreImpl::stats() {
  const auto totals = catalog_.lock()->totals();
  return {.objects = totals.objects, .bytes = totals.bytes, .evicted = evicted_};
}

// ---- writing ----

/// Times of use first: two transactions at once would wait for each other, and the
/// second with catalog_ held.
void PackStoreImpl::commit() {
  use_times_.commit();
  catalog_.lock()->commit();
}

/// Whoever put a settled object lets go of its own copy after the next sync. So a row
/// is not believed here: a power cut may have kept it and lost what it leads to.
bool PackStoreImpl::is_stored(const Cid& cid, ByteView object) {
  const auto place = catalog_.lock()->find(cid);
  if (!place || !options_.durable) return place.has_value();
  const auto pack = open_.get(place->pack);
  const auto stored = pack ? pack->read(cid, *place) : std::nullopt;
  if (stored && std::equal(stored->begin(), stored->end(), object.begin(), object.end())) return true;
  forget(cid, *place);
  return false;
}

void PackStoreImpl::put(const Cid& cid, ByteView object) {
  if (object.empty() || object.size() > kMaxObjectSize) {
    throw Error(ErrorKind::kBug, fmt::format("an object of {} bytes was to be stored", object.size()));
  }
  bool committed = false;
  {
    auto writer = writer_.lock();
    if (is_stored(cid, object)) return;
    if (!writer->pack || ++writer->puts_since_check >= kPutsPerCheck) check_directory(*writer);
    if (writer->pack && writer->end >= options_.pack_size) end_pack(*writer);
    if (!writer->pack) begin_pack(*writer);
    const PackPlace place = writer->pack->append(cid, object, writer->end);
    writer->end += record_size(place);
    if (options_.durable) writer->unsynced.push_back(cid);
    auto catalog = catalog_.lock();
    catalog->add(cid, place);
    committed = catalog->batch_is_due();
    catalog.unlock();
    if (committed) commit();
  }
  if (committed) evict();
}

/// Notices that the directory was deleted or replaced while we run. A deleted
/// cache is begun anew; nothing is ever written through a symlink put in its place.
void PackStoreImpl::check_directory(Writer& writer) {
  writer.puts_since_check = 0;
  const auto identity = identify_directory(directory_);
  const bool gone = !identity;
  if (identity && identity != writer.identity) {
    throw Error(ErrorKind::kIo, fmt::format("{} was replaced while in use", directory_.string()));
  }
  const bool pack_gone = writer.pack && writer.pack->unlinked();
  auto catalog = catalog_.lock();
  if (!gone && !pack_gone && !catalog->is_replaced()) return;
  if (options_.durable) {
    throw Error(ErrorKind::kIo, fmt::format("{} was deleted while in use", directory_.string()));
  }
  log::warn("{}: {} while in use; going on with what is there now", describe(),
            gone || pack_gone ? "deleted" : "its index was replaced");
  if (gone || pack_gone) {
    catalog->forget_uncommitted();  // they went with their pack
    if (writer.pack) open_.close(writer.pack->id());
    writer.pack.reset();
  }
  prepare_pack_directory(directory_, use());
  writer.identity = identify_directory(directory_);
  catalog->open();
}

void PackStoreImpl::begin_pack(Writer& writer) {
  writer.pack = PackFile::create(packs_directory_);
  writer.end = 0;
  if (options_.durable) {
    sync_directory(packs_directory_);
    writer.unsynced_packs.push_back({writer.pack, 0});
  }
  catalog_.lock()->begin_pack(writer.pack->id());
}

void PackStoreImpl::end_pack(Writer& writer) {
  commit();  // from now on others may delete the pack if the index says that it is empty
  writer.pack->unlock();
  writer.pack.reset();
}

void PackStoreImpl::sync() {
  {
    auto writer = writer_.lock();
    try {
      for (const auto& unsynced : writer->unsynced_packs) unsynced.pack->sync();
    } catch (const Error&) {
      give_up_unsynced(*writer);
      throw;
    }
    writer->unsynced.clear();
    writer->unsynced_packs.clear();
    if (options_.durable && writer->pack) writer->unsynced_packs.push_back({writer->pack, writer->end});
    commit();
  }
  evict();
}

/// After a failed fdatasync the kernel may have marked the lost pages clean, and
/// the next one would say that all is well. So what was not synced counts as not
/// stored, and nothing more is written to those packs. It is cut off, or the next
/// opening would find it and believe a sync that has nothing left to write.
void PackStoreImpl::give_up_unsynced(Writer& writer) {
  for (const auto& unsynced : writer.unsynced_packs) {
    try {
      unsynced.pack->truncate(unsynced.from);
    } catch (const Error& error) {
      log::warn("{}", error.what());
    }
  }
  catalog_.lock()->take_back(writer.unsynced);
  writer.unsynced.clear();
  writer.unsynced_packs.clear();
  writer.pack.reset();
}

// ---- removing ----

void PackStoreImpl::remove(std::span<const Cid> cids) {
  auto removed = catalog_.lock()->remove(cids);
  dispose(std::move(removed));
}

std::uint64_t PackStoreImpl::excess() {
  const std::uint64_t used = catalog_.lock()->indexed().bytes;
  struct statvfs status {};
  std::optional<std::uint64_t> free;
  if (options_.min_free_bytes != 0 && ::statvfs(directory_.c_str(), &status) == 0) {
    free = std::uint64_t{status.f_bavail} * status.f_frsize;
  }
  return bytes_to_evict(used, free, options_.limit_bytes, options_.min_free_bytes);
}

/// Frees the space of records that no row leads to any more.
void PackStoreImpl::dispose(std::vector<PackIndex::Entry> removed) {
  const auto forget_if_empty = [this](std::int64_t pack) {
    auto catalog = catalog_.lock();
    const bool empty = catalog->forget_if_empty(pack);
    if (empty) open_.close(pack);
    return empty;
  };
  free_space(packs_directory_, std::move(removed), forget_if_empty);
}

void PackStoreImpl::evict() {
  if (options_.durable || (options_.limit_bytes == 0 && options_.min_free_bytes == 0)) return;
  const std::unique_lock turn(evicting_, std::try_to_lock);
  if (!turn) return;  // two would remove twice what is too much
  for (std::uint64_t left = excess(); left > 0;) {
    auto removed = catalog_.lock()->remove_least_recent(std::min(left, kEvictedAtOnce));
    std::uint64_t bytes = 0;
    for (const auto& entry : removed) bytes += entry.place.length;
    if (bytes == 0) return;
    left -= std::min(left, bytes);
    evicted_ += removed.size();
    dispose(std::move(removed));
  }
}

}  // namespace

std::shared_ptr<PackStore> open_pack_store(const fs::path& directory, const PackStoreOptions& options) {
  return std::make_shared<PackStoreImpl>(directory, options);
}

}  // namespace isr
