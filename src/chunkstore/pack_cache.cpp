// A cache of sealed objects. Locks are taken in this order:
//   keeping_  one keep_house() or make_room() after the other
//   writer_   the packs that this process appends to
//   catalog_  which object is where
//   open_     open packs, for reading
// Only keep_house() and make_room() open and write the index, without writer_, mostly on a thread of their own. So
// reads and puts never wait for another process's transaction or for a slow disk.
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
#include "chunkstore/pack_pins.h"
#include "chunkstore/pack_space.h"
#include "chunkstore/pack_writer.h"

namespace isr {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr unsigned kPutsPerCheck = 64;
constexpr std::uint64_t kEvictedAtOnce = 16U << 20U;
constexpr auto kAgainAfterFailure = 1s;

class CachePacks : public PackCache {
 public:
  CachePacks(const fs::path& directory, const PackStoreOptions& options)
      : directory_(fs::absolute(directory)),
        packs_directory_(directory_ / "packs"),
        options_(options),
        catalog_(directory_, options),
        writer_(Writer{PackWriter(packs_directory_, options.pack_size, PackWriter::Names::kCache)}),
        open_(packs_directory_),
        pins_(directory_) {
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
      log::debug("{}: {}; the next start finds these objects by itself", describe(), error.what());
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
  std::uint64_t make_room(std::uint64_t bytes) override;

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
  bool try_to_commit();
  std::uint64_t evict(std::uint64_t at_least);
  bool evict_some(std::uint64_t bytes, std::uint64_t& freed);
  void free_records(std::vector<PackIndex::Entry> removed, bool are_rows_gone);
  std::optional<std::uint64_t> free_bytes() const;
  std::uint64_t excess();

  fs::path directory_;
  fs::path packs_directory_;
  PackStoreOptions options_;
  PackCatalog catalog_;
  Sync<Writer> writer_;
  OpenPacks open_;
  std::atomic<bool> is_index_failing_ = false, is_pack_failing_ = false;  // a warning was logged
  std::atomic<bool> is_short_ = false;  // disk space is short, and nothing is left to evict
  std::atomic<std::uint64_t> evicted_ = 0;
  std::mutex keeping_;
  CachePins pins_;  // guarded by keeping_
  Sync<Thread> thread_;
};

/// Logs the first failure; the next one is logged only after a success in between.
void CachePacks::complain(std::atomic<bool>& is_failing, const std::exception& error) {
  const bool is_known = is_index_failing_ || is_pack_failing_;
  is_failing = true;
  if (is_known) {
    log::debug("{}: {}", describe(), error.what());
  } else {
    log::warn("{}; objects that the cache cannot keep are fetched again when needed", error.what());
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
  } catch (const Error& error) {  // perhaps out of file descriptors: the object may be good
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
    // The row goes later. The record goes now, or a scan would find it again.
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
  if (!catalog_.is_open() || is_short_) return keep_house_soon();
  try {
    auto writer = writer_.lock();
    if (catalog_.find(cid)) return;
    if (writer->packs.is_between_packs() || ++writer->puts_since_check >= kPutsPerCheck) {
      writer->puts_since_check = 0;
      // Never write through a symlink that replaced the directory.
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
    free_records(catalog_.remove(cids), true);
  } catch (const Error& error) {
    complain(is_index_failing_, error);
  }
}

// ---- keeping house ----

bool CachePacks::is_in_place(const Writer& writer) const {
  const auto identity = identify_directory(directory_);
  return identity && identity == writer.identity && !writer.packs.is_deleted();
}

/// Opens the cache, or the directory that is in its place now.
void CachePacks::open(std::chrono::milliseconds wait) {
  {
    auto writer = writer_.lock();
    if (!is_in_place(*writer)) {
      if (writer->identity) log::warn("{}: the cache was deleted while in use; going on with a new one", describe());
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
    // The parent folder may be a symlink by now, which must not be followed.
    if (!identify_directory(directory_)) make_private_directory(directory_.parent_path());
    if (!is_in_place || !catalog_.is_open() || catalog_.is_replaced()) open({});
    commit();
    evict(0);
    is_index_failing_ = false;
    if (is_short_) thread_.lock()->not_before = Clock::now() + kAgainAfterFailure;
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
  } catch (const std::exception& error) {  // no thread available now
    log::debug("{}: {}", describe(), error.what());
  }
}

void CachePacks::end_thread() {
  std::unique_ptr<ThreadPool> ended;
  auto state = thread_.lock();
  state->is_queued = true;  // so that no second one is queued
  ended.swap(state->thread);
  state.unlock();
}

void CachePacks::commit() {
  const auto full = writer_.lock()->packs.full();
  catalog_.commit();
  writer_.lock()->packs.release(full);
}

bool CachePacks::try_to_commit() {
  try {
    commit();
    return true;
  } catch (const Error& error) {
    complain(is_index_failing_, error);
    return false;
  }
}

// ---- evicting ----

std::optional<std::uint64_t> CachePacks::free_bytes() const {
  struct statvfs status {};
  if (::statvfs(directory_.c_str(), &status) != 0) return std::nullopt;
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

std::uint64_t CachePacks::excess() {
  const auto free = options_.min_free_bytes == 0 ? std::nullopt : free_bytes();
  return bytes_to_evict(catalog_.indexed().bytes, free, options_.limit_bytes, options_.min_free_bytes);
}

/// A full disk may leave the index no space for forgetting rows. Then records are punched out of their packs all the
/// same, which takes no space. Readers find the rows wrong until the rows can be removed.
void CachePacks::free_records(std::vector<PackIndex::Entry> removed, bool are_rows_gone) {
  free_space(packs_directory_, std::move(removed), [&](std::int64_t pack) {
    const bool is_empty = are_rows_gone && catalog_.forget_if_empty(pack);
    if (is_empty) open_.close(pack);
    return is_empty;
  });
}

/// Returns false when nothing more may be evicted.
bool CachePacks::evict_some(std::uint64_t bytes, std::uint64_t& freed) {
  const auto& pinned = pins_.all();
  auto removed = catalog_.least_recent(bytes, [&](const Cid& cid) { return pinned.contains(cid); });
  if (removed.empty()) return false;
  for (const auto& entry : removed) {
    freed += entry.place.length;
    catalog_.forget(entry.cid, entry.place);
  }
  evicted_ += removed.size();
  const bool are_rows_gone = try_to_commit();
  free_records(std::move(removed), are_rows_gone);
  return true;
}

std::uint64_t CachePacks::evict(std::uint64_t at_least) {
  std::uint64_t freed = 0;
  for (const std::uint64_t wanted = std::max(excess(), at_least); freed < wanted;) {
    if (!evict_some(std::min(wanted - freed, kEvictedAtOnce), freed)) break;
  }
  const auto free = free_bytes();
  is_short_ = free && *free < options_.min_free_bytes && catalog_.indexed().bytes > 0;
  if (is_short_) {
    complain(is_pack_failing_,
             NoSpaceError(fmt::format(
                 "{}: the disk has less than cache.min_free free, and everything in the cache is in use", describe())));
  }
  return freed;
}

std::uint64_t CachePacks::make_room(std::uint64_t bytes) {
  const std::lock_guard turn(keeping_);
  try {
    return catalog_.is_open() ? evict(bytes) : 0;
  } catch (const Error& error) {
    complain(is_index_failing_, error);
    return 0;
  }
}

}  // namespace

std::shared_ptr<PackCache> open_pack_cache(const fs::path& directory, const PackStoreOptions& options) {
  return std::make_shared<CachePacks>(directory, options);
}

}  // namespace isr
