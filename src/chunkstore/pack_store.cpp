// Three things, each behind its own lock, taken in this order:
//   writer_   the pack that this process appends to
//   state_    the index, and what is not in it yet: objects just written, times of use
//   open_     open packs, for reading
// Nothing is read or written in a pack with state_ or open_ held.
//
// Objects are found through `pending` until a batch of them goes into the index.
// A crash before that leaves them in the pack, where the next opening finds them.
#include "chunkstore/pack_store.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <chrono>
#include <unordered_map>

#include "base/crypto.h"
#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "chunkstore/open_packs.h"
#include "chunkstore/pack_recovery.h"
#include "chunkstore/pack_space.h"

namespace isr {

PackStore::~PackStore() = default;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kBatchObjects = 64;
constexpr std::size_t kBatchTouches = 1024;
constexpr auto kBatchAge = std::chrono::seconds(1);

class PackStoreImpl : public PackStore {
 public:
  PackStoreImpl(const fs::path& directory, const PackStoreOptions& options)
      : directory_(fs::absolute(directory)),
        packs_directory_(directory_ / "packs"),
        index_file_(directory_ / "index.db"),
        options_(options),
        open_(packs_directory_) {
    prepare_pack_directory(directory_, use());
    if (options_.durable) {
      settled_lock_ = StoreLock::acquire(directory_, {});
      if (!settled_lock_) {
        throw Error(ErrorKind::kVm, fmt::format("{} is in use by another process", directory_.string()));
      }
    }
    writer_.lock()->identity = identify_directory(directory_);
    auto state = state_.lock();
    try {
      open_index(*state);
    } catch (const Error&) {
      if (!state->index_is_taken) throw;
    }
    if (options_.durable) sync_directory(directory_);
  }

  ~PackStoreImpl() override {
    try {
      flush(*state_.lock());
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
    rebuild(*state_.lock());
    return try_fetch(cid);
  }
  std::string describe() const override { return directory_.string(); }
  void drop(const Cid& cid) override;

  bool contains(const Cid& cid) override { return locate(cid).has_value(); }
  void put(const Cid& cid, ByteView object) override;
  void sync() override;
  void remove(std::span<const Cid> cids) override;
  std::vector<Cid> all() override;
  Stats stats() override;

 private:
  struct State {
    std::unique_ptr<PackIndex> index;
    std::unordered_map<Cid, PackPlace, FixedBytesHash> pending;
    std::unordered_map<Cid, std::int64_t, FixedBytesHash> touched;
    Clock::time_point oldest_pending;
    std::int64_t last_time = 0;
    std::uint64_t evicted = 0;
    bool index_is_taken = false;  // another process repairs it and takes long: no index, and no more waiting
  };
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

  void open_index(State& state);
  void rebuild(State& state);
  /// Runs f on the index; when it is damaged, on a new one.
  template <class F>
  auto with_index(State& state, F f) {
    if (!state.index) open_index(state);  // the last attempt to make a new one failed
    try {
      return f(*state.index);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCorrupt) throw;
      log::warn("{}; reading the packs to make a new index", error.what());
      rebuild(state);
      return f(*state.index);
    }
  }

  std::optional<Bytes> try_fetch(const Cid& cid);
  std::optional<PackPlace> find(State& state, const Cid& cid);
  std::optional<PackPlace> locate(const Cid& cid);
  bool is_stored(const Cid& cid, ByteView object);
  bool forget(const Cid& cid, const PackPlace& place);
  std::int64_t next_time(State& state);
  bool batch_is_due(const State& state) const;
  void flush(State& state);
  void dispose(std::vector<PackIndex::Entry> removed);
  void evict();
  std::uint64_t excess(State& state);

  void check_directory(Writer& writer);
  void begin_pack(Writer& writer);
  void end_pack(Writer& writer);
  void give_up_unsynced(Writer& writer);

  fs::path directory_;
  fs::path packs_directory_;
  fs::path index_file_;
  PackStoreOptions options_;
  std::optional<StoreLock> settled_lock_;  // for life: one process only
  std::atomic<bool> suspicious_ = false;   // a row was found to be wrong
  Sync<Writer> writer_;
  Sync<State> state_;
  OpenPacks open_;
};

// ---- index ----

void PackStoreImpl::open_index(State& state) {
  const auto durability = options_.durable ? Durability::kFull : Durability::kRebuildable;
  state.index.reset();
  std::optional<StoreLock> lock;
  if (!options_.durable) {
    using namespace std::chrono_literals;
    lock = StoreLock::acquire(directory_, state.index_is_taken ? 0ms : options_.index_wait);
    if (!std::exchange(state.index_is_taken, !lock) && !lock) {
      log::warn("{}: another process repairs its index and takes long; going on without it", describe());
    }
    if (!lock) throw Error(ErrorKind::kIo, fmt::format("{}: another process repairs its index", describe()));
  }
  const auto open = [&] {
    state.index.reset();
    state.index = std::make_unique<PackIndex>(index_file_, durability);
    if (options_.durable) state.index->check_integrity();
    recover_packs(*state.index, packs_directory_, use());
    state.last_time = state.index->last_access();
  };
  try {
    open();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    log::warn("{}; reading the packs to make a new index", error.what());
    state.index.reset();
    set_index_aside(index_file_);
    open();
  }
}

void PackStoreImpl::rebuild(State& state) {
  // Another process may have replaced the damaged file already; then it is left alone.
  const bool ours = !state.index || !state.index->replaced();
  state.index.reset();
  if (ours) set_index_aside(index_file_);
  open_index(state);
}

std::int64_t PackStoreImpl::next_time(State& state) {
  // Wall-clock microseconds, so that processes agree, but never backwards.
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  return state.last_time = std::max<std::int64_t>(state.last_time + 1, us);
}

bool PackStoreImpl::batch_is_due(const State& state) const {
  return state.pending.size() >= kBatchObjects || state.touched.size() >= kBatchTouches ||
         (!state.pending.empty() && Clock::now() - state.oldest_pending > kBatchAge);
}

void PackStoreImpl::flush(State& state) {
  if (state.pending.empty() && state.touched.empty()) return;
  std::vector<PackIndex::Entry> added;
  added.reserve(state.pending.size());
  for (const auto& [cid, place] : state.pending) added.push_back({cid, place});
  std::vector<PackIndex::Touch> touched;
  touched.reserve(state.touched.size());
  for (const auto& [cid, time] : state.touched) touched.push_back({cid, time});
  const std::int64_t now = next_time(state);
  with_index(state, [&](PackIndex& index) { index.commit(added, now, touched); });
  state.pending.clear();
  state.touched.clear();
}

// ---- reading ----

std::optional<PackPlace> PackStoreImpl::find(State& state, const Cid& cid) {
  if (const auto it = state.pending.find(cid); it != state.pending.end()) return it->second;
  return with_index(state, [&](PackIndex& index) { return index.find(cid); });
}

std::optional<PackPlace> PackStoreImpl::locate(const Cid& cid) {
  auto state = state_.lock();
  try {
    const auto place = find(*state, cid);
    if (place && !options_.durable) {
      state->touched[cid] = next_time(*state);
      if (batch_is_due(*state) && !state->index->replaced()) flush(*state);
    }
    return place;
  } catch (const Error& error) {
    if (options_.durable) throw;
    if (!state->index_is_taken) log::warn("{}: {}", describe(), error.what());
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
    auto state = state_.lock();
    const auto it = state->pending.find(cid);
    const bool was_pending = it != state->pending.end() && it->second == place;
    if (was_pending) state->pending.erase(it);
    return with_index(*state, [&](PackIndex& index) { return index.remove_if_at(cid, place); }) || was_pending;
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

std::vector<Cid> PackStoreImpl::all() {
  auto state = state_.lock();
  flush(*state);
  return with_index(*state, [](PackIndex& index) { return index.all(); });
}

PackStore::Stats PackStoreImpl::stats() {
  auto state = state_.lock();
  Stats stats;
  stats.evicted = state->evicted;
  for (const auto& pack : with_index(*state, [](PackIndex& index) { return index.packs(); })) {
    stats.objects += pack.live;
    stats.bytes += pack.bytes;
  }
  for (const auto& [cid, place] : state->pending) {
    stats.objects++;
    stats.bytes += place.length;
  }
  return stats;
}

// ---- writing ----

/// Whoever put a settled object lets go of its own copy after the next sync. So a row
/// is not believed here: a power cut may have kept it and lost what it leads to.
bool PackStoreImpl::is_stored(const Cid& cid, ByteView object) {
  const auto place = find(*state_.lock(), cid);
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
#ifndef NDEBUG
  if (cid_of(object) != cid) throw Error(ErrorKind::kBug, "an object was to be stored under another's name");
#endif
  bool flushed = false;
  {
    auto writer = writer_.lock();
    if (is_stored(cid, object)) return;
    if (!writer->pack || ++writer->puts_since_check >= kBatchObjects) check_directory(*writer);
    if (writer->pack && writer->end >= options_.pack_size) end_pack(*writer);
    if (!writer->pack) begin_pack(*writer);
    const PackPlace place = writer->pack->append(cid, object, writer->end);
    writer->end += record_size(place);
    if (options_.durable) writer->unsynced.push_back(cid);
    auto state = state_.lock();
    if (state->pending.empty()) state->oldest_pending = Clock::now();
    state->pending.emplace(cid, place);
    if (batch_is_due(*state)) {
      flush(*state);
      flushed = true;
    }
  }
  if (flushed) evict();
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
  auto state = state_.lock();
  if (!gone && !pack_gone && state->index && !state->index->replaced()) return;
  if (options_.durable) {
    throw Error(ErrorKind::kIo, fmt::format("{} was deleted while in use", directory_.string()));
  }
  log::warn("{}: {} while in use; going on with what is there now", describe(),
            gone || pack_gone ? "deleted" : "its index was replaced");
  if (gone || pack_gone) {
    state->pending.clear();  // they went with their pack
    if (writer.pack) open_.close(writer.pack->id());
    writer.pack.reset();
  }
  prepare_pack_directory(directory_, use());
  writer.identity = identify_directory(directory_);
  open_index(*state);
}

void PackStoreImpl::begin_pack(Writer& writer) {
  writer.pack = PackFile::create(packs_directory_);
  writer.end = 0;
  if (options_.durable) {
    sync_directory(packs_directory_);
    writer.unsynced_packs.push_back({writer.pack, 0});
  }
  auto state = state_.lock();
  with_index(*state, [&](PackIndex& index) { index.set_pack_end(writer.pack->id(), 0); });
}

void PackStoreImpl::end_pack(Writer& writer) {
  flush(*state_.lock());  // from now on others may delete the pack if the index says that it is empty
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
    flush(*state_.lock());
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
  auto state = state_.lock();
  for (const Cid& cid : writer.unsynced) state->pending.erase(cid);
  with_index(*state, [&](PackIndex& index) { index.remove(writer.unsynced); });
  writer.unsynced.clear();
  writer.unsynced_packs.clear();
  writer.pack.reset();
}

// ---- removing ----

void PackStoreImpl::remove(std::span<const Cid> cids) {
  std::vector<PackIndex::Entry> removed;
  {
    auto state = state_.lock();
    flush(*state);
    removed = with_index(*state, [&](PackIndex& index) { return index.remove(cids); });
  }
  dispose(std::move(removed));
}

std::uint64_t PackStoreImpl::excess(State& state) {
  std::uint64_t used = 0;
  for (const auto& pack : state.index->packs()) used += pack.bytes;
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
    auto state = state_.lock();
    const bool empty = with_index(*state, [&](PackIndex& index) { return index.forget_if_empty(pack); });
    if (empty) open_.close(pack);
    return empty;
  };
  free_space(packs_directory_, std::move(removed), forget_if_empty);
}

void PackStoreImpl::evict() {
  if (options_.durable || (options_.limit_bytes == 0 && options_.min_free_bytes == 0)) return;
  std::vector<PackIndex::Entry> removed;
  {
    auto state = state_.lock();
    const std::uint64_t bytes = with_index(*state, [&](PackIndex&) { return excess(*state); });
    if (bytes == 0) return;
    removed = with_index(*state, [&](PackIndex& index) { return index.remove_least_recent(bytes); });
    state->evicted += removed.size();
  }
  dispose(std::move(removed));
}

}  // namespace

std::shared_ptr<PackStore> open_pack_store(const fs::path& directory, const PackStoreOptions& options) {
  return std::make_shared<PackStoreImpl>(directory, options);
}

}  // namespace isr
