// Settled objects. Locks are taken in this order:
//   writer_   the packs that are appended to
//   catalog_  which object is where
//   open_     open packs, for reading
// An object is in the catalogue's memory from put() on, and in the index once its pack was synced. So after a failed
// sync only memory must be cleared, and everything that the index says about a pack is durable.
#include "chunkstore/pack_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <unordered_set>

#include "base/crypto.h"
#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "chunkstore/open_packs.h"
#include "chunkstore/pack_cache.h"
#include "chunkstore/pack_catalog.h"
#include "chunkstore/pack_directory.h"
#include "chunkstore/pack_space.h"
#include "chunkstore/pack_writer.h"

namespace isr {

PackStore::~PackStore() = default;

namespace {

constexpr unsigned kPutsPerCheck = 64;
constexpr std::uint64_t kRowsOfACommit = 1U << 20U;

fs::path prepared(const fs::path& directory) {
  fs::path absolute = fs::absolute(directory);
  prepare_pack_directory(absolute, PackUse::kSettled);
  sync_directory(absolute.parent_path());  // the process that made the directory may not have synced its name
  return absolute;
}

StoreLock lock_for_life(const fs::path& directory) {
  auto lock = StoreLock::acquire(directory, {});
  if (!lock) throw Error(ErrorKind::kVm, fmt::format("{} is in use by another process", directory.string()));
  return *std::move(lock);
}

class SettledPacks : public PackStore {
 public:
  SettledPacks(const fs::path& directory, const PackStoreOptions& options)
      : directory_(prepared(directory)),
        packs_directory_(directory_ / "packs"),
        make_room_(options.make_room),
        lock_(lock_for_life(directory_)),
        identity_(identify_directory(directory_)),
        catalog_(directory_, options),
        writer_(Writer{PackWriter(packs_directory_, options.pack_size, PackWriter::Names::kDurable)}),
        open_(packs_directory_) {
    catalog_.open({});
    sync_directory(directory_);
  }

  std::optional<Bytes> fetch(const Cid& cid, Priority /*priority*/, std::stop_token /*stop*/) override;
  std::string describe() const override { return directory_.string(); }
  void drop(const Cid& cid) override;

  bool contains(const Cid& cid) override { return catalog_.find(cid).has_value(); }
  void put(const Cid& cid, ByteView object) override;
  void sync() override;
  void remove(std::span<const Cid> cids) override;
  std::vector<Cid> all() override { return catalog_.all(); }
  Stats stats() override {
    const auto totals = catalog_.totals();
    return {.objects = totals.objects, .bytes = totals.bytes};
  }
  std::uint64_t failed_syncs() const override { return failed_syncs_; }

 private:
  struct Writer {
    PackWriter packs;
    unsigned puts_since_check = 0;
  };

  std::optional<Bytes> try_fetch(const Cid& cid);
  std::optional<Bytes> read(const Cid& cid, const PackPlace& place);
  bool is_stored(const Cid& cid, ByteView object);
  void check_directory(const Writer& writer) const;

  fs::path directory_;
  fs::path packs_directory_;
  MakeRoom make_room_;
  StoreLock lock_;  // held for the store's lifetime: one process only
  std::optional<DirectoryIdentity> identity_;
  PackCatalog catalog_;
  Sync<Writer> writer_;
  OpenPacks open_;
  std::atomic<std::uint64_t> failed_syncs_ = 0;
  std::atomic<bool> is_suspicious_ = false;  // a row was found to be wrong
  Sync<std::unordered_set<Cid, FixedBytesHash>> damaged_;
};

// ---- reading ----

std::optional<Bytes> SettledPacks::read(const Cid& cid, const PackPlace& place) {
  const auto pack = open_.get(place.pack);
  return pack ? pack->read(cid, place) : std::nullopt;
}

std::optional<Bytes> SettledPacks::try_fetch(const Cid& cid) {
  const auto place = catalog_.find(cid);
  if (!place) return std::nullopt;
  if (auto object = read(cid, *place)) return object;
  if (catalog_.forget(cid, *place)) {
    damaged_.lock()->insert(cid);
    is_suspicious_ = true;
  }
  return std::nullopt;
}

std::optional<Bytes> SettledPacks::fetch(const Cid& cid, Priority /*priority*/, std::stop_token /*stop*/) {
  auto object = try_fetch(cid);
  // The index may be the damaged part. Settled objects are the only copy, so rebuild it and look again, once.
  if (!object && is_suspicious_.exchange(false)) {
    log::warn("{}: the index has a wrong row; reading the packs to make a new index", describe());
    catalog_.rebuild();
    object = try_fetch(cid);
  }
  if (!object && damaged_.lock()->contains(cid)) {
    throw Error(ErrorKind::kIo, fmt::format("object {} in {} is damaged", short_hex(cid.view()), describe()));
  }
  return object;
}

void SettledPacks::drop(const Cid& cid) {
  try {
    const auto place = catalog_.find(cid);
    const auto object = try_fetch(cid);
    if (!place || !object || cid_of(*object) == cid) return;
    log::warn("{}: object {} is damaged, forgetting it", describe(), short_hex(cid.view()));
    catalog_.forget(cid, *place);
    damaged_.lock()->insert(cid);
  } catch (const Error& error) {
    log::warn("{}: {}", describe(), error.what());
  }
}

// ---- writing ----

/// After the next sync the caller drops its own copy of an object. So this does not trust a row, nor a copy that cannot
/// be read.
bool SettledPacks::is_stored(const Cid& cid, ByteView object) {
  const auto place = catalog_.find(cid);
  if (!place) return false;
  try {
    const auto stored = read(cid, *place);
    if (stored && std::equal(stored->begin(), stored->end(), object.begin(), object.end())) return true;
  } catch (const Error& error) {
    log::warn("{}; storing object {} again", error.what(), short_hex(cid.view()));
  }
  catalog_.forget(cid, *place);
  return false;
}

void SettledPacks::put(const Cid& cid, ByteView object) {
  check_object_size(object);
  auto writer = writer_.lock();
  if (!is_stored(cid, object)) {
    if (writer->packs.is_between_packs() || ++writer->puts_since_check >= kPutsPerCheck) {
      check_directory(*writer);
      writer->puts_since_check = 0;
    }
    const auto append = [&] { return writer->packs.append(cid, object); };
    catalog_.add(cid, with_room(make_room_, object.size(), append));
  }
  damaged_.lock()->erase(cid);
}

/// Never write through a symlink, or into another directory, that replaced ours.
void SettledPacks::check_directory(const Writer& writer) const {
  const auto identity = identify_directory(directory_);
  if (identity && identity != identity_) {
    throw Error(ErrorKind::kIo, fmt::format("{} was replaced while in use", directory_.string()));
  }
  if (!identity || writer.packs.is_deleted() || catalog_.is_replaced()) {
    throw Error(ErrorKind::kIo, fmt::format("{} was deleted while in use", directory_.string()));
  }
}

void SettledPacks::sync() {
  auto writer = writer_.lock();
  try {
    writer->packs.sync();
  } catch (const Error&) {
    ++failed_syncs_;
    for (const auto& tail : writer->packs.unsynced()) catalog_.take_back(tail.pack->id(), tail.from);
    writer->packs.give_up_unsynced();
    throw;
  }
  const auto full = writer->packs.full();
  with_room(make_room_, kRowsOfACommit, [&] { catalog_.commit(); });
  writer->packs.release(full);
}

void SettledPacks::remove(std::span<const Cid> cids) {
  auto removed = catalog_.remove(cids);
  {
    auto damaged = damaged_.lock();
    for (const Cid& cid : cids) damaged->erase(cid);
  }
  free_space(packs_directory_, std::move(removed), [this](std::int64_t pack) {
    const bool is_empty = catalog_.forget_if_empty(pack);
    if (is_empty) open_.close(pack);
    return is_empty;
  });
}

}  // namespace

void check_object_size(ByteView object) {
  if (object.empty() || object.size() > kMaxObjectSize) {
    throw Error(ErrorKind::kBug, fmt::format("an object of {} bytes was to be stored", object.size()));
  }
}

std::shared_ptr<PackStore> open_pack_store(const fs::path& directory, const PackStoreOptions& options) {
  if (options.durable) return std::make_shared<SettledPacks>(directory, options);
  return open_pack_cache(directory, options);
}

}  // namespace isr
