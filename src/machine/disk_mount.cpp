// A process that has a file of the mount open would lose its writes when the mount is removed. So a command that
// removes the mount does not begin while any process has a file open. At the end of a session the mount refuses writers
// before the last changes are frozen, until the session's directory is gone. So every write that was answered is in the
// version.

#include "machine/disk_mount.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "fusefs/file_users.h"
#include "machine/machine_files.h"

namespace isr {
namespace {

using Clock = std::chrono::steady_clock;

// A process that is closing its file, and a loop device that has just been unmounted, need a moment.
constexpr std::chrono::milliseconds kLettingGo{1000};
// The kernel tells the mount that a file is closed only after close() has returned; on a busy host much later.
constexpr std::chrono::milliseconds kLongestRelease{5000};
constexpr std::chrono::milliseconds kPoll{20};

[[noreturn]] void throw_in_use(const std::string& name, const std::vector<FileUser>& users) {
  std::vector<std::string> who;
  std::vector<std::string> hints;
  for (const FileUser& user : users) {
    who.push_back(escaped(user.who));
    hints.push_back(escaped(user.way_out));
  }
  if (who.empty()) who.emplace_back("a process that this user may not see");
  hints.emplace_back("then run the same command again; nothing was changed");
  throw Error(ErrorKind::kVm, fmt::format("the disks of {} are in use by {}", name, fmt::join(who, ", ")), hints);
}

}  // namespace

DiskMount::DiskMount(DiskMountParts parts)
    : parts_(std::move(parts)), directory_(mount_directory(parts_.paths, parts_.parcel_id)) {}

void DiskMount::replace_mount(std::optional<MountedFile> memory) {
  unmount();
  // A crash must not take back a state on top of which this mount was written to.
  parts_.session.make_state_certain();
  MountOptions options;
  options.source_name = mount_source(parts_.parcel_id);
  options.immutable = !memory && parts_.session.state().phase == SessionPhase::kSuspended;
  std::vector<MountedFile> files = mounted_disks(parts_.session.images().disks());
  if (memory) files.push_back(std::move(*memory));
  runtime_directory(parts_.paths);
  // The dead mount of a killed daemon would also keep make_private_directory() from working.
  if (is_dead_mount(directory_)) isr::unmount(directory_);
  make_private_directory(directory_);
  auto mount = parts_.host->make_mount(directory_, std::move(files), parts_.stats_json, options);
  mount->start();
  mount_ = std::move(mount);  // only after start(): if that fails, a later call mounts again
}

void DiskMount::mount() { replace_mount(std::nullopt); }

void DiskMount::mount_for_guest(MountedFile memory) { replace_mount(std::move(memory)); }

void DiskMount::try_to_mount() noexcept {
  try {
    mount();
  } catch (const std::exception& error) {
    log::error("the disks are not mounted: {}", error.what());
  }
}

void DiskMount::unmount() {
  if (!mount_) return;  // the directory may belong to another daemon by now
  mount_.reset();
  std::error_code ignored;
  fs::remove(directory_, ignored);
}

void DiskMount::require_unused() const {
  if (!mount_) return;
  const auto guest = parts_.guest_pid();
  const bool has_guest = guest.has_value();  // the guest has files open, so their number says nothing
  const std::vector<pid_t> ours = has_guest ? std::vector<pid_t>{*guest} : std::vector<pid_t>{};
  for (const auto began = Clock::now();; std::this_thread::sleep_for(kPoll)) {
    if (!has_guest && mount_->open_files() == 0) return;
    const auto users = find_file_users(directory_, ours);
    if (has_guest && users.empty()) return;
    if (Clock::now() - began > (users.empty() ? kLongestRelease : kLettingGo)) throw_in_use(parts_.name, users);
  }
}

void DiskMount::close() {
  if (!mount_) return;
  mount_->refuse_writers();
  try {
    require_unused();
  } catch (...) {
    mount_->admit_writers();
    throw;
  }
}

void DiskMount::open() {
  if (mount_) {
    mount_->admit_writers();
  } else {
    mount();
  }
}

void DiskMount::write_back() const {
  for (const auto& disk : parts_.session.images().disks()) isr::write_back(disk_file(directory_, *disk));
}

}  // namespace isr
