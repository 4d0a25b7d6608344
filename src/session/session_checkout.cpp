// Checking out and giving back: the lock in the repository, the directory here.

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "fusefs/mount.h"
#include "session/held_lock.h"
#include "session/session.h"
#include "session/session_part.h"

namespace isr {
namespace {

VersionImage placeholder(std::string_view name, ImageRole role, std::uint64_t size) {
  return {std::string(name), role, {size, {}}};
}

/// With the lock held, so that what is the newest version stays it.
void write_first_state(const Account& account, const ParcelEntry& parcel, const LockRecord& lock,
                       const VersionChoice& choice, const std::stop_token& stop) {
  LoadedVersion loaded = load_version(account, parcel, {}, stop);
  const std::uint64_t newest = loaded.head.head.n;
  const Sha256 newest_hash = loaded.head.hash;
  if (!choice.is_newest() && choice.number != newest) loaded = load_version(account, parcel, choice, stop);

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

}  // namespace

std::vector<SessionImage> number_images(const ParcelVersion& version) {
  std::vector<SessionImage> images;
  const auto add = [&](const VersionImage& image) {
    images.push_back({static_cast<std::uint16_t>(images.size()), image, 0});
  };
  for (const VersionImage& image : version.images) {
    if (is_disk(image.role)) add(image);
  }
  for (const RoleRules& rules : image_roles()) {
    if (rules.is_disk || !rules.is_checked_out) continue;
    const VersionImage* const there = version.find(rules.name);
    const std::uint64_t size = rules.role == ImageRole::kMemory ? version.vm.memory_bytes : kNoDeviceState;
    add(there ? *there : placeholder(std::string(rules.name), rules.role, size));
  }
  return images;
}

void Session::create(Account& account, const ParcelEntry& parcel, LockMode mode, const VersionChoice& choice,
                     const std::optional<std::string>& steal_reason, const std::stop_token& stop) {
  const fs::path directory = account.parcel_directory(parcel);
  const auto refuse = [&] {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here already", parcel.name),
                {fmt::format("isr stat {}", parcel.name)});
  };
  remove_ended_directories(directory);
  // Not even a look at the lock file, which a daemon that just begins needs.
  if (fs::exists(directory / "session")) refuse();
  const FileLock flock = take_parcel(account, parcel);
  if (fs::exists(directory / "session")) refuse();
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
  const LockBase base = base_of(parcel, load_version(account, parcel, {}, stop).head);
  const LockRecord record = take_lock(account, parcel, mode, base, steal_reason, stop);
  try {
    write_first_state(account, parcel, record, choice, stop);
  } catch (...) {
    give_back_lock(account, parcel.id, record.hold, stop);
    throw;
  }
  forget_lock(account, parcel.id, record.hold);
}

void Session::undo_create(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop) {
  const fs::path directory = account.parcel_directory(parcel);
  if (!fs::exists(directory / "session")) return;
  const auto flock = await_parcel(account, parcel);
  const auto state = read_session_state(directory, account.device_key, parcel.id);
  if (!flock || !state) return;
  const fs::path journal = directory / "journal";
  if (fs::exists(journal) && !fs::is_empty(journal)) return;
  if (const fs::path mount = mount_directory(account.paths, parcel.id); is_dead_mount(mount)) {
    unmount(mount);  // of a daemon that was killed while it started
    std::error_code ignored;
    fs::remove(mount, ignored);
  }
  note_lock(account, parcel.id, state->hold);
  take_directory_away(directory);
  give_back_lock(account, parcel.id, state->hold, stop);
  remove_ended_directories(directory);
}

std::uint64_t Session::disk_writes() const {
  std::uint64_t sum = 0;
  for (const auto& disk : disks()) {
    const ImageCounters& counters = disk->counters();
    sum += counters.writes + counters.written_bytes + counters.discarded_bytes;
  }
  return sum;
}

LockReturn Session::end(const std::function<void()>& before) {
  require_transition(state_.phase, SessionEvent::kEnd, parcel_.name);
  if (!published_ || published_->phase != state_.phase || published_->disk_writes != disk_writes()) {
    throw Error(ErrorKind::kVm, fmt::format("{} has changes that no version has", parcel_.name),
                {"the same command again publishes them; nothing is lost"});
  }
  note_lock(account_, parcel_.id, state_.hold);
  if (before) before();
  take_directory_away(directory_);
  lease_.reset();
  cancel();
  const LockReturn returned = give_back_lock(account_, parcel_.id, state_.hold);
  remove_ended_directories(directory_);
  return returned;
}

LockRequest Session::lock_request() const {
  return {.hold = state_.hold,
          .mode = state_.lock_mode,
          .base = {.chain = parcel_.chain(), .n = state_.base, .hash = state_.base_hash}};
}

bool Session::keep_lock(const std::stop_token& stop) {
  ParcelLock lock = account_.lock(parcel_, stop);
  try {
    lock.keep(lock_request());
  } catch (const LockedError& locked) {
    if (locked.ruling().is_moved_hold(state_.hold)) refuse_moved(locked.ruling());
    return false;
  }
  resume_lease();
  return true;
}

/// Each take-over is a hold of its own, so that a copy of this session does not pass for its holder.
void Session::take_over_lock(const std::string& reason, const std::stop_token& stop) {
  const LockRequest wanted = lock_request();
  const LockRecord taken = take_lock(account_, parcel_, wanted.mode, wanted.base, reason, stop);
  change_state([&](SessionState& next) { next.hold = taken.hold; });
  forget_lock(account_, parcel_.id, taken.hold);
  lease_.reset();  // of the hold before
}

bool Session::secure_lock(const std::optional<std::string>& steal_reason, const std::stop_token& stop) {
  try {
    go_online(stop);
    ParcelLock lock = account_.lock(parcel_, stop);
    const auto ruling = lock.show();
    if (ruling && ruling->is_hold(state_.hold)) {
      resume_lease();
      return true;
    }
    if (!steal_reason) {
      const bool is_anothers = ruling && ruling->record.held && !ruling->ours;
      if (is_anothers) ruling->is_moved_hold(state_.hold) ? refuse_moved(*ruling) : refuse_lost_lock(*ruling);
      const auto newest = account_.chain(parcel_.chain(), stop).newest();
      if (newest && newest->hash != state_.base_hash && find_pending(*newest) == nullptr)
        refuse_passed_by(newest->head.n);
    }
    if (steal_reason) {
      take_over_lock(*steal_reason, stop);
    } else {
      lock.acquire(lock_request());
    }
    resume_lease();
    log::info("the lock is ours again");
    return true;
  } catch (const Error& error) {
    const bool is_out_of_reach = error.kind() == ErrorKind::kTransient || error.kind() == ErrorKind::kOffline;
    if (!is_out_of_reach || steal_reason) throw;  // to take the lock was the user's wish
    log::warn("the lock could not be looked at: {}", error.what());
    return false;
  }
}

namespace {

std::string having_both(const std::string& name) {
  return fmt::format(
      "to have both             isr suspend {0}    keeps this one as a fork, isr branch {0}@FORK NEW opens it", name);
}

}  // namespace

std::string Session::going_on() const {
  const std::string_view command = state_.phase == SessionPhase::kSuspended ? "resume" : "checkout";
  return fmt::format("to go on with this one   isr {} {} --take-lock", command, parcel_.name);
}

void Session::refuse_lost_lock(const LockRuling& ruling) const {
  const std::string seen = ruling.age ? ", last seen " + describe_age(*ruling.age) : std::string();
  throw Error(
      ErrorKind::kLocked,
      fmt::format("{} has taken over {} (since {}{}); what is here is kept", ruling.record.host, parcel_.name,
                  to_rfc3339(ruling.record.since), seen),
      {going_on(),
       fmt::format("to take the other        isr discard {0} && isr checkin {0}    and, once {1} has suspended it, "
                   "isr resume {0}",
                   parcel_.name, ruling.record.host),
       having_both(parcel_.name)});
}

/// The state directory was moved, or is a copy beside one that is in use: only the user knows.
void Session::refuse_moved(const LockRuling& ruling) const {
  throw Error(
      ErrorKind::kLocked,
      fmt::format("the lock of {} was taken on {} at another place (since {}): this state directory was moved or "
                  "copied; what is here is kept",
                  parcel_.name, ruling.record.host, to_rfc3339(ruling.record.since)),
      {"if it was moved             the same command with --take-lock",
       fmt::format("if the original is in use   isr discard {0} && isr checkin {0}    gives this copy up",
                   parcel_.name)});
}

void Session::refuse_passed_by(std::uint64_t newest) const {
  throw Error(
      ErrorKind::kHistory,
      fmt::format("another host has published version {} of {}; what is here comes from version {}, and is kept",
                  newest, parcel_.name, state_.base),
      {going_on() + fmt::format("    its suspend becomes a fork, isr rollback {}@FORK puts that on top", parcel_.name),
       fmt::format("to take the other        isr discard {0} && isr checkin {0} && isr resume {0}", parcel_.name),
       having_both(parcel_.name)});
}

void Session::keep_lease(LeaseKeeper::OnLost on_lost) {
  on_lease_lost_ = std::move(on_lost);
  resume_lease();
}

void Session::resume_lease() {
  if (!on_lease_lost_ || state_.lock_mode != LockMode::kAttended) return;
  if (lease_ && !lease_->lost()) return;
  // A store of its own, where there was none: the account's comes when a command goes online.
  auto open = [store = account_.store, entry = account_.entry, info = account_.info, options = account_.store_options,
               chain = parcel_.chain(), key = account_.keys.signing, host = account_.host,
               lease = account_.lease()](const std::stop_token& stop) mutable -> ParcelLock {
    if (!store) store = open_pinned_store(entry, info, options, stop);
    return {make_stoppable(store, stop), chain, key, host, lease};
  };
  LockRecord held;
  held.hold = state_.hold;
  held.lease = account_.lease();
  lease_.emplace(held, std::move(open), on_lease_lost_);
  try {
    lease_->start();
  } catch (const std::system_error& error) {
    lease_.reset();
    log::warn("the lease is not renewed: {}", error.what());
  }
}

}  // namespace isr
