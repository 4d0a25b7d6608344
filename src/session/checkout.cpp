#include "session/checkout.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/file_lock.h"
#include "fusefs/mount.h"
#include "session/held_lock.h"
#include "session/session_state.h"

namespace isr {
namespace {

/// Runs with the lock held, so that the newest version stays the newest.
void write_first_state(const Account& account, const ParcelEntry& parcel, const LockRecord& lock,
                       const VersionChoice& choice, const std::stop_token& stop) {
  LoadedVersion loaded = load_version(account, parcel, {}, stop);
  const std::uint64_t newest = loaded.head.head.n;
  const Sha256 newest_hash = loaded.head.hash;
  if (!choice.is_newest() && choice.number != newest) loaded = load_version(account, parcel, choice, stop);

  SessionState state;
  state.parcel_id = parcel.id;
  state.parcel_name = parcel.name;
  state.base = newest;  // work on an older version or a fork is published behind the newest
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
  const fs::path directory = account.host.parcel_directory(parcel);
  make_private_directory(directory);
  write_session_state(directory, account.host.device_key, state);
}

}  // namespace

void check_out(Account& account, const ParcelEntry& parcel, LockMode mode, const VersionChoice& choice,
               const std::optional<std::string>& steal_reason, const std::stop_token& stop) {
  const fs::path directory = account.host.parcel_directory(parcel);
  const auto refuse = [&] {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here already", parcel.name),
                {fmt::format("isr stat {}", parcel.name)});
  };
  remove_ended_directories(directory);
  // Checked before the lock file is taken, because a daemon that is just starting needs that file.
  if (fs::exists(directory / "session")) refuse();
  const FileLock flock = take_parcel(account.host, parcel);
  if (fs::exists(directory / "session")) refuse();
  if (fs::exists(directory / "journal")) {
    // Its records belong to another base. Over this base they would give wrong bytes.
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{} holds unsynced changes of an earlier session, but its file 'session' is missing",
                            directory.string()),
                {"restore the file from a backup, or move the directory away to give the changes up"});
  }
  auto& store = account.remote.online("checking out " + parcel.name);
  if (!store.writable()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is read-only: it can be mounted, not run", store.describe()),
                {fmt::format("isr mount {}@latest DIR    to read it", parcel.name)});
  }
  const LockBase base = base_of(parcel, load_version(account, parcel, {}, stop).head);
  const LockRecord record = take_lock(account, parcel, mode, base, steal_reason, stop);
  try {
    write_first_state(account, parcel, record, choice, stop);
  } catch (...) {
    give_back_lock(account, parcel.id, record.hold, stop);
    throw;
  }
  forget_lock(account.host, parcel.id, record.hold);
}

void undo_check_out(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop) {
  const fs::path directory = account.host.parcel_directory(parcel);
  if (!fs::exists(directory / "session")) return;
  const auto flock = await_parcel(account.host, parcel);
  const auto state = read_session_state(directory, account.host.device_key, parcel.id);
  if (!flock || !state) return;
  const fs::path journal = directory / "journal";
  if (fs::exists(journal) && !fs::is_empty(journal)) return;
  if (const fs::path mount = mount_directory(account.host.paths, parcel.id); is_dead_mount(mount)) {
    unmount(mount);  // left by a daemon that was killed while it started
    std::error_code ignored;
    fs::remove(mount, ignored);
  }
  note_lock(account.host, parcel.id, state->hold);
  take_directory_away(directory);
  give_back_lock(account, parcel.id, state->hold, stop);
  remove_ended_directories(directory);
}

}  // namespace isr
