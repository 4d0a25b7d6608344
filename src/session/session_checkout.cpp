// Checking out and giving back: the lock in the repository, the directory here.

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "session/session.h"
#include "session/session_part.h"

namespace isr {
namespace {

VersionImage placeholder(std::string_view name, ImageRole role, std::uint64_t size) {
  return {std::string(name), role, {size, {}}};
}

/// A directory that end() began to delete.
fs::path ended_directory(const fs::path& directory) { return directory.string() + ".ended"; }

/// With the lock held, so that what is the newest version stays it.
void write_first_state(const Account& account, const ParcelEntry& parcel, const LockRecord& lock,
                       const VersionChoice& choice) {
  LoadedVersion loaded = load_version(account, parcel);
  const std::uint64_t newest = loaded.head.head.n;
  const Sha256 newest_hash = loaded.head.hash;
  if (!choice.is_newest() && choice.number != newest) loaded = load_version(account, parcel, choice);

  SessionState state;
  state.parcel_id = parcel.id;
  state.parcel_name = parcel.name;
  state.base = newest;  // an older version, or a fork, is continued as a new one behind the newest
  state.base_hash = newest_hash;
  state.content = loaded.head.head.n;
  state.base_version = loaded.version;
  state.phase = loaded.version.suspended() ? SessionPhase::kSuspended : SessionPhase::kCheckedOut;
  state.since = lock.since;
  state.hold = lock.hold;
  state.lock_mode = lock.mode;
  state.vm = loaded.version.vm;
  state.stamp = loaded.version.stamp;
  state.images = number_images(loaded.version);
  const fs::path directory = account.parcel_directory(parcel);
  make_private_directory(directory);
  write_session_state(directory, account.device_key, state);
}

void release_lock(const Account& account, const ParcelEntry& parcel, const std::string& hold) {
  if (account.offline()) return;
  try {
    account.lock(parcel).release(hold);
  } catch (const std::exception& error) {
    log::warn("the lock of {} was not released: {}", parcel.name, error.what());
  }
}

void remove_directory(const fs::path& directory) {
  const fs::path ended = ended_directory(directory);
  fs::remove_all(ended);
  fs::rename(directory, ended);  // at once, so that no half of a session is ever found
  fs::remove_all(ended);
}

}  // namespace

std::vector<SessionImage> number_images(const ParcelVersion& version) {
  std::vector<SessionImage> images;
  const auto add = [&](const VersionImage& image) {
    images.push_back({static_cast<std::uint16_t>(images.size()), image, 0});
  };
  for (const VersionImage& image : version.images) {
    if (is_disk(image.role)) add(image);
  }
  const VersionImage* memory = version.find("memory");
  add(memory ? *memory : placeholder("memory", ImageRole::kMemory, version.vm.memory_bytes));
  const VersionImage* device = version.find("device");
  add(device ? *device : placeholder("device", ImageRole::kDevice, kNoDeviceState));
  return images;
}

void Session::create(Account& account, const ParcelEntry& parcel, LockMode mode, const VersionChoice& choice,
                     const std::optional<std::string>& steal_reason) {
  const fs::path directory = account.parcel_directory(parcel);
  fs::remove_all(ended_directory(directory));
  // Not even a look at the flock, which a daemon that just begins needs.
  const bool present = fs::exists(directory / "session");
  if (!present) make_private_directory(directory);
  const auto flock = present ? std::nullopt : FileLock::try_acquire(directory / "lock");
  if (!flock || fs::exists(directory / "session")) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here already", parcel.name),
                {fmt::format("isr stat {}", parcel.name)});
  }
  if (fs::exists(directory / "journal")) {
    // Its records belong to another base; put over this one they would be wrong bytes.
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{} holds unsynced changes of an earlier session, whose description is missing",
                            directory.string()),
                {"put its file 'session' back from a backup, or move the directory away to give the changes up"});
  }
  auto& store = account.online("checking out " + parcel.name);
  if (!store.writable()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is read-only: it can be mounted, not run", store.describe()),
                {fmt::format("isr mount {}@latest DIR    looks at it", parcel.name)});
  }
  auto lock = account.lock(parcel);
  const LockRequest wanted{
      .hold = random_hold(), .mode = mode, .base = base_of(parcel, load_version(account, parcel).head)};
  const LockRecord record = steal_reason ? lock.steal(wanted, *steal_reason) : lock.acquire(wanted);
  try {
    write_first_state(account, parcel, record, choice);
  } catch (...) {
    release_lock(account, parcel, wanted.hold);
    throw;
  }
}

void Session::undo_create(const Account& account, const ParcelEntry& parcel) {
  const fs::path directory = account.parcel_directory(parcel);
  const auto flock = FileLock::try_acquire(directory / "lock");
  const auto state = read_session_state(directory, account.device_key, parcel.id);
  if (!flock || !state) return;
  const fs::path journal = directory / "journal";
  if (fs::exists(journal) && !fs::is_empty(journal)) return;
  release_lock(account, parcel, state->hold);
  remove_directory(directory);
}

std::uint64_t Session::disk_writes() const {
  std::uint64_t sum = 0;
  for (const auto& disk : disks()) {
    const ImageCounters& counters = disk->counters();
    sum += counters.writes + counters.written_bytes + counters.discarded_bytes;
  }
  return sum;
}

void Session::end() {
  if (!published_ || published_->phase != state_.phase || published_->disk_writes != disk_writes()) {
    throw Error(ErrorKind::kVm, fmt::format("{} has changes that no version has", parcel_.name),
                {"the same command again publishes them; nothing is lost"});
  }
  lease_.reset();
  release_lock(account_, parcel_, state_.hold);
  cancel();
  remove_directory(directory_);
}

void Session::keep_lease(LeaseKeeper::OnLost on_lost) {
  if (state_.lock_mode != LockMode::kAttended) return;
  // A store of its own, where there was none: the account's comes when a command goes online.
  auto open = [store = account_.store, entry = account_.entry, info = account_.info, options = account_.store_options,
               chain = parcel_.chain(), key = account_.keys.signing, host = account_.host,
               lease = account_.lease](const std::stop_token& stop) mutable -> ParcelLock {
    if (!store) store = open_pinned_store(entry, info, options, stop);
    return {make_stoppable(store, stop), chain, key, host, lease};
  };
  LockRecord held;
  held.hold = state_.hold;
  held.lease = account_.lease;
  lease_.emplace(held, std::move(open), std::move(on_lost));
  lease_->start();
}

}  // namespace isr
