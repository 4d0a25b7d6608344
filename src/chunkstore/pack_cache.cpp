// A cache of sealed objects. Locks are taken in this order:
//   keeping_  one keep_house() after the other
//   writer_   the packs that this process appends to
//   catalog_  which object is where
//   open_     open packs, for reading
// Only keep_house() opens and writes the index, without writer_: mostly on a thread of its own,
// so that who reads or puts never waits for another process's transaction or for a slow disk.
#include "chunkstore/pack_cache.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/crypto.h"
#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "base/thread_pool.h"
#include "chunkstore/open_packs.h"
#include "chunkstore/pack_catalog.h"
#include "chunkstore/pack_directory.h"
#include "chunkstore/pack_space.h"
#include "chunkstore/pack_writer.h"

namespace isr {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr unsigned kPutsPerCheck = 64;
constexpr std::uint64_t kEvictedAtOnce = 16U << 20U;
constexpr auto kAgainAfterFailure = 1s;

class CachePacks : public PackStore {
 public:
  CachePacks(const fs::path& directory, const PackStoreOptions& options)
      : directory_(fs::absolute(directory)),
        packs_directory_(directory_ / "packs"),
        options_(options),
        catalog_(directory_, options),
        writer_(Writer{PackWriter(packs_directory_, options.pack_size, PackWriter::Names::kCache)}),
        open_(packs_directory_) {
    try {
      open(options.index_wait);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kIo) throw;
      complain(is_index_failing_, error);
    }
  }

  ~CachePacks() override {
    end_thread();
    try {
      commit();
    } catch (const std::exception& error) {
      log::debug("{}: {}; the next opening finds the objects by itself", describe(), error.what());
    }
  }

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override;
  std::string describe() const override { return directory_.string(); }
  void drop(const Cid& cid) override;

  bool contains(const Cid& cid) override { return locate(cid).has_value(); }
  void put(const Cid& cid, ByteView object) override;
  void sync() override { keep_house(); }
  void remove(std::span<const Cid> cids) override;
  std::vector<Cid> all() override;
  Stats stats() override;

 private:
  struct Writer {
    PackWriter packs;
    unsigned puts_since_check = 0;
    std::optional<DirectoryIdentity> identity{};
  };
  struct Thread {
    std::unique_ptr<ThreadPool> thread{};
    bool is_queued = false;
    Clock::time_point not_before{};
  };

  std::optional<PackPlace> locate(const Cid& cid);
  void complain(std::atomic<bool>& is_failing, const std::exception& error);

  void open(std::chrono::milliseconds wait);
  bool is_in_place(const Writer& writer) const;
  void keep_house();
  void keep_house_soon();
  void end_thread();
  void commit();
  void dispose(std::vector<PackIndex::Entry> removed);
  void evict();
  std::uint64_t excess();

  fs::path directory_;
  fs::path packs_directory_;
  PackStoreOptions options_;
  PackCatalog catalog_;
  Sync<Writer> writer_;
  OpenPacks open_;
  std::atomic<bool> is_index_failing_ = false, is_pack_failing_ = false;  // was told
  std::atomic<std::uint64_t> evicted_ = 0;
  std::mutex keeping_;
  Sync<Thread> thread_;
};

/// The first failure is told, until it goes well again.
void CachePacks::complain(std::atomic<bool>& is_failing, const std::exception& error) {
  const bool is_known = is_index_failing_ || is_pack_failing_;
  is_failing = true;
  if (is_known) {
    log::debug("{}: {}", describe(), error.what());
  } else {
    log::warn("{}; going on without what the cache cannot keep", error.what());
  }
}

// ---- reading ----

std::optional<PackPlace> CachePacks::locate(const Cid& cid) {
  std::optional<PackPlace> place;
  try {
    place = catalog_.find(cid);
    if (place) catalog_.note_use(cid);
  } catch (const Error& error) {
    complain(is_index_failing_, error);
  }
  if (catalog_.is_commit_due()) keep_house_soon();
  return place;
}

std::optional<Bytes> CachePacks::fetch(const Cid& cid, Priority /*priority*/, std::stop_token /*stop*/) {
  const auto place = locate(cid);
  if (!place) return std::nullopt;
  try {
    const auto pack = open_.get(place->pack);
    if (pack) {
      if (auto object = pack->read(cid, *place)) return object;
    }
    catalog_.forget(cid, *place);
  } catch (const Error& error) {  // perhaps out of file descriptors: no fault of the object
    complain(is_pack_failing_, error);
  }
  return std::nullopt;
}

void CachePacks::drop(const Cid& cid) {
  const auto place = locate(cid);
  const auto object = fetch(cid, Priority::kGuest, {});
  if (!place || !object || cid_of(*object) == cid) return;
  log::warn("{}: object {} is damaged, forgetting it", describe(), short_hex(cid.view()));
  try {
    catalog_.forget(cid, *place);
    // Its row goes later, its record now, or a scan would find it again.
    free_space(packs_directory_, {{cid, *place}}, [](std::int64_t) { return false; });
  } catch (const Error& error) {
    complain(is_pack_failing_, error);
  }
}

std::vector<Cid> CachePacks::all() {
  try {
    return catalog_.all();
  } catch (const Error& error) {
    complain(is_index_failing_, error);
    return {};
  }
}

PackStore::Stats CachePacks::stats() {
  Stats stats{.evicted = evicted_};
  try {
    const auto totals = catalog_.totals();
    stats.objects = totals.objects;
    stats.bytes = totals.bytes;
  } catch (const Error& error) {
    complain(is_index_failing_, error);
  }
  return stats;
}

// ---- writing ----

void CachePacks::put(const Cid& cid, ByteView object) {
  check_object_size(object);
  if (!catalog_.is_open()) return keep_house_soon();
  try {
    auto writer = writer_.lock();
    if (catalog_.find(cid)) return;
    if (writer->packs.is_between_packs() || ++writer->puts_since_check >= kPutsPerCheck) {
      writer->puts_since_check = 0;
      // Nothing is ever written through a symlink put in the place of the directory.
      if (!is_in_place(*writer)) {
        writer.unlock();
        return keep_house_soon();
      }
    }
    catalog_.add(cid, writer->packs.append(cid, object));
    is_pack_failing_ = false;
  } catch (const Error& error) {
    complain(is_pack_failing_, error);
  }
  if (catalog_.is_commit_due()) keep_house_soon();
}

void CachePacks::remove(std::span<const Cid> cids) {
  try {
    dispose(catalog_.remove(cids));
  } catch (const Error& error) {
    complain(is_index_failing_, error);
  }
}

// ---- keeping house ----

bool CachePacks::is_in_place(const Writer& writer) const {
  const auto identity = identify_directory(directory_);
  return identity && identity == writer.identity && !writer.packs.is_deleted();
}

/// Opens the cache, or what is in its place now.
void CachePacks::open(std::chrono::milliseconds wait) {
  {
    auto writer = writer_.lock();
    if (!is_in_place(*writer)) {
      if (writer->identity) log::warn("{}: deleted while in use; going on with what is there now", describe());
      writer->identity.reset();
      writer->packs.forget_all();
      catalog_.forget_uncommitted();
      open_.close_all();
    }
  }
  prepare_pack_directory(directory_, PackUse::kCache);
  const auto identity = identify_directory(directory_);
  catalog_.open(wait);
  writer_.lock()->identity = identity;
}

void CachePacks::keep_house() {
  const std::lock_guard turn(keeping_);
  try {
    const bool is_in_place = this->is_in_place(*writer_.lock());
    if (!is_in_place || !catalog_.is_open() || catalog_.is_replaced()) open({});
    commit();
    evict();
    is_index_failing_ = false;
  } catch (const std::exception& error) {
    thread_.lock()->not_before = Clock::now() + kAgainAfterFailure;
    complain(is_index_failing_, error);
  }
}

void CachePacks::keep_house_soon() {
  auto state = thread_.lock();
  if (state->is_queued || Clock::now() < state->not_before) return;
  try {
    if (!state->thread) state->thread = std::make_unique<ThreadPool>(1);
    state->thread->submit([this] {
      thread_.lock()->is_queued = false;
      keep_house();
    });
    state->is_queued = true;
  } catch (const std::exception& error) {  // no thread to be had now
    log::debug("{}: {}", describe(), error.what());
  }
}

void CachePacks::end_thread() {
  std::unique_ptr<ThreadPool> ended;
  auto state = thread_.lock();
  state->is_queued = true;  // nothing begins another
  ended.swap(state->thread);
  state.unlock();
}

void CachePacks::commit() {
  const auto full = writer_.lock()->packs.full();
  catalog_.commit();
  writer_.lock()->packs.release(full);
}

std::uint64_t CachePacks::excess() {
  struct statvfs status {};
  std::optional<std::uint64_t> free;
  if (options_.min_free_bytes != 0 && ::statvfs(directory_.c_str(), &status) == 0) {
    free = std::uint64_t{status.f_bavail} * status.f_frsize;
  }
  return bytes_to_evict(catalog_.indexed().bytes, free, options_.limit_bytes, options_.min_free_bytes);
}

/// Frees the space of records that no row leads to any more.
void CachePacks::dispose(std::vector<PackIndex::Entry> removed) {
  free_space(packs_directory_, std::move(removed), [this](std::int64_t pack) {
    const bool is_empty = catalog_.forget_if_empty(pack);
    if (is_empty) open_.close(pack);
    return is_empty;
  });
}

void CachePacks::evict() {
  if (options_.limit_bytes == 0 && options_.min_free_bytes == 0) return;
  for (std::uint64_t left = excess(); left > 0;) {
    auto removed = catalog_.least_recent(std::min(left, kEvictedAtOnce), [](const Cid&) { return false; });
    std::uint64_t bytes = 0;
    for (const auto& entry : removed) {
      bytes += entry.place.length;
      catalog_.forget(entry.cid, entry.place);
    }
    if (bytes == 0) return;
    commit();
    left -= std::min(left, bytes);
    evicted_ += removed.size();
    dispose(std::move(removed));
  }
}

}  // namespace

std::shared_ptr<PackStore> open_pack_cache(const fs::path& directory, const PackStoreOptions& options) {
  return std::make_shared<CachePacks>(directory, options);
}

}  // namespace isr
