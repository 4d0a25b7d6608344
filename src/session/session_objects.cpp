#include "session/session_objects.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "account/version_reader.h"
#include "base/log.h"

namespace isr {
namespace {

constexpr unsigned kSealThreads = 2;
constexpr std::uint64_t kRoomAtOnce = 64U << 20U;  // a segment of the journal

bool is_one_disk(const fs::path& one, const fs::path& other) {
  struct stat of_one {};
  struct stat of_other {};
  return ::stat(one.c_str(), &of_one) == 0 && ::stat(other.c_str(), &of_other) == 0 && of_one.st_dev == of_other.st_dev;
}

PackStoreOptions settled_options(const MakeRoom& make_room) {
  PackStoreOptions options;
  options.durable = true;
  options.make_room = make_room;
  return options;
}

/// Returns the account's store. Offline, returns a store that tries to open the repository again for each read, so that
/// reads succeed once it is back.
BlobStorePtr repository_of(const Remote& remote) {
  if (!remote.offline()) return remote.store;
  StoreOptions once = remote.store_options;
  once.open_patience = {};  // no waiting here: the reader waits and asks again
  return make_lazy_store(remote.entry.url,
                         [entry = remote.entry, info = remote.info, once](const std::stop_token& stop) {
                           return open_pinned_store(entry, info, once, stop);
                         });
}

}  // namespace

SessionObjects::SessionObjects(const Account& account, const fs::path& directory)
    : account_(account),
      waits_(account.host.config.get("read.unreachable") == "wait"),
      cache_(open_cache(account.host.paths, account.host.config)) {
  if (is_one_disk(cache_directory(account.host.paths), directory)) {
    make_room_ = [this](std::uint64_t bytes) { return make_room(bytes); };
    cache_->make_room(0);  // the settled store, opened next, may write copies of objects that were not synced
  }
  settled_ = open_pack_store(directory / "settled", settled_options(make_room_));
  ReaderParts parts;
  parts.settled = settled_;
  parts.cache = cache_;
  parts.repository = repository_of(account.remote);
  parts.unreachable = waits_ ? Unreachable::kWait : Unreachable::kFail;
  reader_ = make_reader(parts, source_stats_, account.host.paths, account.host.config);
}

std::shared_ptr<ChunkReader> SessionObjects::local_reader() const {
  return std::make_shared<ChunkReader>(open_stack({settled_tier(settled_), cache_tier(cache_)}, local_stats_),
                                       ReaderOptions{.decoded_bytes = 16U << 20U});
}

std::shared_ptr<Image> SessionObjects::make_image(const std::string& name, std::shared_ptr<const BaseContent> base,
                                                  std::shared_ptr<Overlay> overlay) const {
  auto image = std::make_shared<Image>(name, std::move(base), reader_, std::move(overlay));
  image->set_make_room(make_room_);
  return image;
}

Bytes SessionObjects::load(const Cid& cid) const {
  auto object = settled_->fetch(cid, Priority::kUpload, {});
  if (!object) {
    // The object was settled long ago and published with another version, or its settled copy is damaged.
    object = cache_->fetch(cid, Priority::kUpload, {});
  }
  if (!object || cid_of(*object) != cid) {
    throw Error(ErrorKind::kCorrupt, fmt::format("object {} of this session is damaged or missing in {}",
                                                 to_hex(cid.view()), settled_->describe()));
  }
  return std::move(*object);
}

SealContext SessionObjects::seal_context() {
  return {local_reader(), *settled_, account_.identity.domain_secret, kSealThreads};
}

/// Makes room on a full disk by dropping data that can be fetched again.
std::uint64_t SessionObjects::make_room(std::uint64_t bytes) {
  std::uint64_t freed = cache_->make_room(std::max(bytes, kRoomAtOnce));
  if (freed == 0) freed = reader_->give_up_spill();
  if (freed > 0) log::info("the disk is full; freed {} KiB of data that can be fetched again", freed >> 10U);
  return freed;
}

}  // namespace isr
