#include "chunkstore/pack_catalog.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "chunkstore/pack_directory.h"
#include "chunkstore/pack_recovery.h"

namespace isr {
namespace {

constexpr std::size_t kBatchObjects = 64;
constexpr auto kBatchAge = std::chrono::seconds(1);

}  // namespace

PackCatalog::PackCatalog(fs::path directory, const PackStoreOptions& options)
    : directory_(std::move(directory)),
      index_file_(directory_ / "index.db"),
      durable_(options.durable),
      index_wait_(options.index_wait) {}

// ---- the index ----

void PackCatalog::open() {
  index_.reset();
  std::optional<StoreLock> lock;
  if (!durable_) {
    using namespace std::chrono_literals;
    lock = StoreLock::acquire(directory_, is_taken_ ? 0ms : index_wait_);
    if (!std::exchange(is_taken_, !lock) && !lock) {
      log::warn("{}: another process repairs its index and takes long; going on without it", directory_.string());
    }
    if (!lock) throw Error(ErrorKind::kIo, fmt::format("{}: another process repairs its index", directory_.string()));
  }
  const auto open_and_recover = [&] {
    index_.reset();
    index_ = std::make_unique<PackIndex>(index_file_, durable_ ? Durability::kFull : Durability::kRebuildable);
    if (durable_) index_->check_integrity();
    recover_packs(*index_, directory_ / "packs", durable_ ? PackUse::kSettled : PackUse::kCache);
    last_time_ = index_->last_access();
  };
  try {
    open_and_recover();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    log::warn("{}; reading the packs to make a new index", error.what());
    index_.reset();
    set_index_aside(index_file_);
    open_and_recover();
  }
}

void PackCatalog::rebuild() {
  // Another process may have replaced the damaged file already; then it is left alone.
  const bool ours = !index_ || !index_->replaced();
  index_.reset();
  if (ours) set_index_aside(index_file_);
  open();
}

/// Runs f on the index; when it is damaged, on a new one.
template <class F>
auto PackCatalog::with_index(F f) {
  if (!index_) open();  // the last attempt to make a new one failed
  try {
    return f(*index_);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    log::warn("{}; reading the packs to make a new index", error.what());
    rebuild();
    return f(*index_);
  }
}

// ---- batches ----

std::int64_t PackCatalog::next_time() {
  // Wall-clock microseconds, so that processes agree, but never backwards.
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  return last_time_ = std::max<std::int64_t>(last_time_ + 1, us);
}

void PackCatalog::add(const Cid& cid, const PackPlace& place) {
  if (pending_.empty()) oldest_pending_ = Clock::now();
  pending_.emplace(cid, place);
}

bool PackCatalog::batch_is_due() const {
  return pending_.size() >= kBatchObjects || (!pending_.empty() && Clock::now() - oldest_pending_ > kBatchAge);
}

void PackCatalog::commit() {
  if (pending_.empty()) return;
  std::vector<PackIndex::Entry> added;
  added.reserve(pending_.size());
  for (const auto& [cid, place] : pending_) added.push_back({cid, place});
  const std::int64_t now = next_time();
  with_index([&](PackIndex& index) { index.commit(added, now); });
  pending_.clear();
}

// ---- objects ----

std::optional<PackPlace> PackCatalog::find(const Cid& cid) {
  if (const auto it = pending_.find(cid); it != pending_.end()) return it->second;
  return with_index([&](PackIndex& index) { return index.find(cid); });
}

std::vector<PackIndex::Entry> PackCatalog::remove(std::span<const Cid> cids) {
  commit();
  return with_index([&](PackIndex& index) { return index.remove(cids); });
}

bool PackCatalog::remove_if_at(const Cid& cid, const PackPlace& place) {
  const auto it = pending_.find(cid);
  const bool was_pending = it != pending_.end() && it->second == place;
  if (was_pending) pending_.erase(it);
  return with_index([&](PackIndex& index) { return index.remove_if_at(cid, place); }) || was_pending;
}

void PackCatalog::take_back(std::span<const Cid> cids) {
  for (const Cid& cid : cids) pending_.erase(cid);
  with_index([&](PackIndex& index) { index.remove(cids); });
}

std::vector<PackIndex::Entry> PackCatalog::remove_least_recent(std::uint64_t bytes) {
  return with_index([&](PackIndex& index) { return index.remove_least_recent(bytes); });
}

std::vector<Cid> PackCatalog::all() {
  commit();
  return with_index([](PackIndex& index) { return index.all(); });
}

// ---- packs ----

void PackCatalog::begin_pack(std::int64_t pack) {
  with_index([&](PackIndex& index) { index.set_pack_end(pack, 0); });
}

bool PackCatalog::forget_if_empty(std::int64_t pack) {
  return with_index([&](PackIndex& index) { return index.forget_if_empty(pack); });
}

PackCatalog::Totals PackCatalog::indexed() {
  Totals totals;
  for (const auto& pack : with_index([](PackIndex& index) { return index.packs(); })) {
    totals.objects += pack.live;
    totals.bytes += pack.bytes;
  }
  return totals;
}

PackCatalog::Totals PackCatalog::totals() {
  Totals totals = indexed();
  for (const auto& [cid, place] : pending_) {
    totals.objects++;
    totals.bytes += place.length;
  }
  return totals;
}

}  // namespace isr
