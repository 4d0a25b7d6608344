#include "chunkstore/pack_catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "base/error.h"
#include "base/log.h"
#include "chunkstore/pack_directory.h"
#include "chunkstore/pack_recovery.h"

namespace isr {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kBatchObjects = 64;
constexpr std::size_t kBatchUses = 1024;
constexpr auto kBatchAge = 1s;
// How long a commit waits for another process's transaction. A cache can write its batch later instead.
constexpr auto kCachePatience = 500ms;
constexpr auto kSettledPatience = 10s;

bool leads_to(const std::unordered_map<Cid, PackPlace, FixedBytesHash>& places, const Cid& cid,
              const PackPlace& place) {
  const auto it = places.find(cid);
  return it != places.end() && it->second == place;
}

template <class Added>
bool was_added(const Added& added, const Cid& cid, const PackPlace& place) {
  const auto it = added.find(cid);
  return it != added.end() && it->second.place == place;
}

}  // namespace

PackCatalog::PackCatalog(fs::path directory, const PackStoreOptions& options)
    : directory_(std::move(directory)), index_file_(directory_ / "index.db"), durable_(options.durable) {}

// ---- the index ----

std::unique_ptr<PackIndex> PackCatalog::open_index() const {
  return std::make_unique<PackIndex>(index_file_, durable_ ? Durability::kFull : Durability::kRebuildable,
                                     durable_ ? std::chrono::milliseconds(kSettledPatience) : kCachePatience);
}

void PackCatalog::open(std::chrono::milliseconds wait) {
  auto writing = writing_.lock();
  open_locked(*writing, wait);
}

void PackCatalog::open_locked(IndexPtr& writing, std::chrono::milliseconds wait) {
  std::optional<StoreLock> lock;
  if (!durable_) {
    lock = StoreLock::acquire(directory_, wait);
    if (!lock)
      throw Error(ErrorKind::kIo, fmt::format("{}: another process is repairing the index", directory_.string()));
  }
  is_open_ = false;
  const auto open_and_recover = [&] {
    writing.reset();
    IndexPtr index = open_index();
    if (durable_) index->check_integrity();
    recover_packs(*index, directory_ / "packs", durable_ ? PackUse::kSettled : PackUse::kCache);
    last_time_ = index->last_access();
    *reading_.lock() = open_index();
    writing = std::move(index);
  };
  try {
    open_and_recover();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    log::warn("{}; reading the packs to make a new index", error.what());
    reading_.lock()->reset();
    set_index_aside(index_file_);
    open_and_recover();
  }
  noted_.lock()->is_index_damaged = false;
  is_open_ = true;
}

void PackCatalog::rebuild() {
  auto writing = writing_.lock();
  rebuild_locked(*writing);
}

void PackCatalog::rebuild_locked(IndexPtr& writing) {
  // If another process has already replaced the damaged file, leave the new file alone.
  const bool ours = !writing || !writing->replaced();
  writing.reset();
  reading_.lock()->reset();
  if (ours) set_index_aside(index_file_);
  noted_.lock()->wrong.clear();
  open_locked(writing, 0ms);
}

bool PackCatalog::is_replaced() const {
  auto reading = reading_.lock();
  return !*reading || (*reading)->replaced();
}

/// Runs f on the index. When the index is damaged and the store durable, runs it on a new one.
template <class F>
auto PackCatalog::read(F f) {
  try {
    auto reading = reading_.lock();
    if (!*reading) throw Error(ErrorKind::kIo, fmt::format("{}: the index is not open", directory_.string()));
    return f(**reading);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    if (!durable_) {
      noted_.lock()->is_index_damaged = true;
      throw Error(ErrorKind::kIo, error.what());
    }
    log::warn("{}; reading the packs to make a new index", error.what());
  }
  rebuild();
  auto reading = reading_.lock();
  return f(**reading);
}

/// Holds writing_ all the time, because a removal must not come between the two halves of a commit.
template <class F>
auto PackCatalog::write(F f) {
  auto writing = writing_.lock();
  if (!*writing) open_locked(*writing, 0ms);  // the last attempt to make a new index failed
  if (noted_.lock()->is_index_damaged) rebuild_locked(*writing);
  try {
    return f(**writing);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    log::warn("{}; reading the packs to make a new index", error.what());
    rebuild_locked(*writing);
    return f(**writing);
  }
}

// ---- reading ----

std::optional<PackPlace> PackCatalog::find(const Cid& cid) {
  {
    auto noted = noted_.lock();
    if (const auto it = noted->added.find(cid); it != noted->added.end()) return it->second.place;
  }
  const auto place = read([&](PackIndex& index) { return index.find(cid); });
  if (place && leads_to(noted_.lock()->wrong, cid, *place)) return std::nullopt;
  return place;
}

std::vector<Cid> PackCatalog::all() {
  std::unordered_set<Cid, FixedBytesHash> cids;
  for (const Cid& cid : read([](PackIndex& index) { return index.all(); })) cids.insert(cid);
  auto noted = noted_.lock();
  for (const auto& [cid, place] : noted->wrong) cids.erase(cid);
  for (const auto& [cid, added] : noted->added) cids.insert(cid);
  return {cids.begin(), cids.end()};
}

std::vector<PackIndex::Entry> PackCatalog::least_recent(std::uint64_t bytes,
                                                        const std::function<bool(const Cid&)>& keep) {
  const Places wrong = noted_.lock()->wrong;
  return read([&](PackIndex& index) {
    return index.least_recent(bytes, [&](const PackIndex::Entry& entry) {
      return leads_to(wrong, entry.cid, entry.place) || keep(entry.cid);
    });
  });
}

PackCatalog::Totals PackCatalog::indexed() {
  Totals totals;
  for (const auto& pack : read([](PackIndex& index) { return index.packs(); })) {
    totals.objects += pack.live;
    totals.bytes += pack.bytes;
  }
  auto noted = noted_.lock();
  for (const auto& [cid, place] : noted->wrong) {
    totals.objects -= std::min<std::uint64_t>(totals.objects, 1);
    totals.bytes -= std::min<std::uint64_t>(totals.bytes, place.length);
  }
  return totals;
}

PackCatalog::Totals PackCatalog::totals() {
  Totals totals = indexed();
  auto noted = noted_.lock();
  for (const auto& [cid, added] : noted->added) {
    totals.objects++;
    totals.bytes += added.place.length;
  }
  return totals;
}

// ---- noting ----

std::int64_t PackCatalog::next_time() {
  // Wall-clock microseconds, so that processes agree, but never less than the last value.
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::int64_t us = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  std::int64_t last = last_time_;
  while (!last_time_.compare_exchange_weak(last, std::max(last + 1, us))) {
  }
  return std::max(last + 1, us);
}

void PackCatalog::add(const Cid& cid, const PackPlace& place) {
  const std::int64_t now = next_time();
  auto noted = noted_.lock();
  if (noted->added.empty()) noted->oldest = Clock::now();
  noted->added.emplace(cid, Added{place, now});
}

bool PackCatalog::forget(const Cid& cid, const PackPlace& place) {
  {
    auto noted = noted_.lock();
    if (was_added(noted->added, cid, place)) {
      noted->added.erase(cid);
      return true;
    }
  }
  if (find(cid) != place) return false;
  noted_.lock()->wrong.insert_or_assign(cid, place);
  return true;
}

void PackCatalog::note_use(const Cid& cid) {
  const std::int64_t now = next_time();
  noted_.lock()->used[cid] = now;
}

void PackCatalog::take_back(std::int64_t pack, std::uint64_t from) {
  std::erase_if(noted_.lock()->added, [&](const auto& entry) {
    return entry.second.place.pack == pack && entry.second.place.offset >= from;
  });
}

void PackCatalog::forget_uncommitted() { noted_.lock()->added.clear(); }

bool PackCatalog::is_commit_due() const {
  if (!is_open_) return true;
  auto noted = noted_.lock();
  const bool is_old = !noted->added.empty() && Clock::now() - noted->oldest > kBatchAge;
  return is_old || noted->added.size() >= kBatchObjects || noted->used.size() >= kBatchUses || !noted->wrong.empty() ||
         noted->is_index_damaged;
}

// ---- writing ----

PackCatalog::Batch PackCatalog::take_batch() {
  Batch batch;
  auto noted = noted_.lock();
  for (const auto& [cid, place] : noted->wrong) batch.removed.push_back({cid, place});
  for (const auto& [cid, added] : noted->added) batch.added.push_back({{cid, added.place}, added.time});
  for (const auto& [cid, time] : noted->used) batch.used.push_back({cid, time});
  noted->used.clear();
  return batch;
}

void PackCatalog::committed(const Batch& batch) {
  auto noted = noted_.lock();
  for (const auto& entry : batch.removed) {
    if (leads_to(noted->wrong, entry.cid, entry.place)) noted->wrong.erase(entry.cid);
  }
  for (const auto& [entry, time] : batch.added) {
    if (was_added(noted->added, entry.cid, entry.place)) noted->added.erase(entry.cid);
  }
}

void PackCatalog::commit() {
  write([&](PackIndex& index) {
    const Batch batch = take_batch();
    if (batch.removed.empty() && batch.added.empty() && batch.used.empty()) return;
    index.commit({batch.removed, batch.added, batch.used});
    committed(batch);
  });
}

std::vector<PackIndex::Entry> PackCatalog::remove(std::span<const Cid> cids) {
  return write([&](PackIndex& index) {
    auto removed = index.remove(cids);
    auto noted = noted_.lock();
    for (const Cid& cid : cids) {
      const auto it = noted->added.find(cid);
      if (it == noted->added.end()) continue;
      removed.push_back({cid, it->second.place});
      noted->added.erase(it);
    }
    return removed;
  });
}

bool PackCatalog::forget_if_empty(std::int64_t pack) {
  return write([&](PackIndex& index) { return index.forget_if_empty(pack); });
}

}  // namespace isr
