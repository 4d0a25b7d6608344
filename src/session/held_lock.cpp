#include "session/held_lock.h"

#include <fmt/format.h>

#include <thread>

#include "base/file_lock.h"
#include "base/log.h"
#include "base/sleep.h"
#include "base/stop.h"
#include "base/whole_file.h"
#include "session/session_state.h"

namespace isr {
namespace {

// A daemon that has just answered its last command, or was told to end, needs a moment to exit.
constexpr std::chrono::seconds kGoing{3};
constexpr std::chrono::seconds kPatience{3};  // how long an interrupted command tries to give its lock back
constexpr std::chrono::milliseconds kPoll{20};
constexpr std::size_t kIdSize = 32;
constexpr std::string_view kEnded = ".ended.";

fs::path notes_directory(const HostState& host) { return host.state_directory / "locks"; }

fs::path note_file(const HostState& host, const std::string& parcel_id, const std::string& hold) {
  return notes_directory(host) / (parcel_id + "." + hold);
}

struct Note {
  std::string parcel_id;
  std::string hold;
};

std::vector<Note> read_notes(const HostState& host) {
  std::vector<Note> notes;
  std::error_code absent;
  for (const auto& file : fs::directory_iterator(notes_directory(host), absent)) {
    const std::string name = file.path().filename();
    if (name.size() != 2 * kIdSize + 1 || name[kIdSize] != '.') continue;
    Note note{name.substr(0, kIdSize), name.substr(kIdSize + 1)};
    if (from_hex(note.parcel_id) && from_hex(note.hold)) notes.push_back(std::move(note));
  }
  return notes;
}

bool has_session(const fs::path& directory) {
  return fs::exists(directory / "session") || fs::exists(directory / "journal");
}

/// Removes a parcel's directory when it has nothing but the lock file that take_parcel() made.
void remove_if_empty(const fs::path& directory) {
  for (const auto& file : fs::directory_iterator(directory)) {
    if (file.path().filename() != "lock") return;
  }
  take_directory_away(directory);
  remove_ended_directories(directory);
}

void give_back(const Account& account, const Note& note) {
  const fs::path directory = account.host.state_directory / "parcels" / note.parcel_id;
  bool is_of_a_session = false;
  {
    make_private_directory(directory);
    const auto flock = FileLock::try_acquire(directory / "lock");
    if (!flock) return;  // a later call gives the lock back, once that process has ended
    const auto state = read_session_state(directory, account.host.device_key, note.parcel_id);
    is_of_a_session = state && state->hold == note.hold;
    if (!has_session(directory)) remove_if_empty(directory);
  }
  // No process takes this hold again, so other processes may use the parcel while the repository is asked.
  if (is_of_a_session) {
    forget_lock(account.host, note.parcel_id, note.hold);
  } else {
    give_back_lock(account, note.parcel_id, note.hold);
  }
}

LockReturn release_noted(const Account& account, const std::string& parcel_id, const std::string& hold,
                         const std::stop_token& stop) {
  if (account.remote.offline()) return LockReturn::kLater;
  try {
    ParcelEntry parcel;
    parcel.id = parcel_id;
    if (!account.lock(parcel, stop).release(hold)) {
      log::warn(
          "the lock of parcel {} is not given back: it was taken before this state directory was moved, or by "
          "the directory from which this one was copied; isr lock ls shows it, isr lock break frees it",
          parcel_id.substr(0, 12));
      return LockReturn::kMoved;
    }
    forget_lock(account.host, parcel_id, hold);
    return LockReturn::kDone;
  } catch (const std::exception& error) {
    log::warn("the lock of parcel {} is not given back yet: {}", parcel_id.substr(0, 12), error.what());
    return LockReturn::kLater;
  }
}

}  // namespace

std::optional<FileLock> await_parcel(const HostState& host, const ParcelEntry& parcel) {
  const fs::path directory = host.parcel_directory(parcel);
  const auto until = std::chrono::steady_clock::now() + kGoing;
  for (;; std::this_thread::sleep_for(kPoll)) {
    try {
      make_private_directory(directory);
      if (auto held = FileLock::try_acquire(directory / "lock")) return held;
    } catch (const Error&) {
      if (fs::exists(directory)) throw;  // otherwise the end of a session has just removed it
    }
    if (std::chrono::steady_clock::now() > until) return std::nullopt;
  }
}

FileLock take_parcel(const HostState& host, const ParcelEntry& parcel) {
  if (auto held = await_parcel(host, parcel)) return std::move(*held);
  throw Error(ErrorKind::kVm, fmt::format("{} is in use by another process here", parcel.name),
              {fmt::format("isr stat {}", parcel.name)});
}

TakenParcel::TakenParcel(const HostState& host, const ParcelEntry& parcel)
    : directory_(host.parcel_directory(parcel)), flock_(take_parcel(host, parcel)) {}

TakenParcel::~TakenParcel() {
  try {
    remove_if_empty(directory_);
  } catch (const std::exception& error) {
    log::warn("{}: {}", directory_.string(), error.what());
  }
}

LockRecord take_lock(const Account& account, const ParcelEntry& parcel, LockMode mode, const LockBase& base,
                     const std::optional<std::string>& steal_reason, const std::stop_token& stop) {
  ParcelLock lock = account.lock(parcel, stop);
  const LockRequest wanted{.hold = random_hold(), .mode = mode, .base = base};
  note_lock(account.host, parcel.id, wanted.hold);
  try {
    return steal_reason ? lock.steal(wanted, *steal_reason) : lock.acquire(wanted);
  } catch (const LockedError&) {
    // Nothing was written to the repository. After another failure the lock may have been taken, so the note stays.
    forget_lock(account.host, parcel.id, wanted.hold);
    throw;
  }
}

void note_lock(const HostState& host, const std::string& parcel_id, const std::string& hold) {
  make_private_directory(notes_directory(host));
  create_file(note_file(host, parcel_id, hold), {});
}

void forget_lock(const HostState& host, const std::string& parcel_id, const std::string& hold) {
  remove_if_exists(note_file(host, parcel_id, hold));
}

std::string_view to_name(LockReturn how) noexcept {
  switch (how) {
    case LockReturn::kDone:
      return "done";
    case LockReturn::kLater:
      return "later";
    case LockReturn::kMoved:
      break;
  }
  return "moved";
}

LockReturn give_back_lock(const Account& account, const std::string& parcel_id, const std::string& hold,
                          const std::stop_token& stop) {
  if (!stop.stop_possible()) return release_noted(account, parcel_id, hold, stop);
  std::stop_source given_up;
  std::jthread timer;
  try {
    timer = std::jthread([&](const std::stop_token& done) {
      const EitherStop either(stop, done);
      sleep_until_stopped(either.token());
      sleep_unless_stopped(kPatience, done);
      given_up.request_stop();
    });
  } catch (const std::system_error&) {
    if (stop.stop_requested()) return LockReturn::kLater;
    return release_noted(account, parcel_id, hold, stop);
  }
  return release_noted(account, parcel_id, hold, given_up.get_token());
}

void give_back_left_locks(const Account& account) {
  if (account.remote.offline()) return;
  for (const Note& note : read_notes(account.host)) {
    try {
      give_back(account, note);
    } catch (const std::exception& error) {
      log::warn("the lock of parcel {} is not given back yet: {}", note.parcel_id.substr(0, 12), error.what());
    }
  }
}

bool has_lock_to_give_back(const HostState& host, const ParcelEntry& parcel) {
  const auto notes = read_notes(host);
  return std::any_of(notes.begin(), notes.end(), [&](const Note& note) { return note.parcel_id == parcel.id; });
}

bool give_back_orphaned_lock(const Account& account, const ParcelEntry& parcel) {
  const auto ruling = account.lock(parcel).show();
  if (!ruling || !ruling->ours) return false;
  const FileLock flock = take_parcel(account.host, parcel);
  const fs::path directory = account.host.parcel_directory(parcel);
  if (has_session(directory)) return false;
  account.lock(parcel).release(ruling->record.hold);
  remove_if_empty(directory);
  return true;
}

void take_directory_away(const fs::path& directory) {
  fs::rename(directory, directory.string() + std::string(kEnded) + random_hold());
}

void remove_ended_directories(const fs::path& directory) {
  const std::string begin = directory.filename().string() + std::string(kEnded);
  std::error_code failure;
  for (fs::directory_iterator it(directory.parent_path(), failure), end; !failure && it != end; it.increment(failure)) {
    std::error_code remains;
    if (it->path().filename().string().starts_with(begin)) fs::remove_all(it->path(), remains);
  }
}

}  // namespace isr
