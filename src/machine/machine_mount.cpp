// The session's mount, and who else uses what is in it.
//
// A process that has a file of it open would lose its writes when the mount goes, so nothing that takes the mount away
// begins while one has. And a session that ends refuses to open files from before its last changes are frozen until its
// directory is gone: what was answered is in the version, or was refused.

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "fusefs/file_users.h"
#include "machine/machine.h"

namespace isr {
namespace {

using Clock = std::chrono::steady_clock;

// A file that is being closed, and a loop device whose mount has just gone, need a moment.
constexpr std::chrono::milliseconds kLettingGo{1000};
// The kernel tells us of a file's end after the process; on a busy host later.
constexpr std::chrono::milliseconds kLongestRelease{5000};
constexpr std::chrono::milliseconds kPoll{20};

[[noreturn]] void throw_in_use(const std::string& name, const std::vector<FileUser>& users) {
  std::vector<std::string> who;
  std::vector<std::string> hints;
  for (const FileUser& user : users) {
    who.push_back(escaped(user.who));
    hints.push_back(escaped(user.way_out));
  }
  if (who.empty()) who.emplace_back("somebody whom this user may not see");
  hints.emplace_back("then the same command again; nothing was changed");
  throw Error(ErrorKind::kVm, fmt::format("the disks of {} are in use by {}", name, fmt::join(who, ", ")), hints);
}

}  // namespace

std::vector<MountedFile> mounted_files(const std::vector<std::shared_ptr<Image>>& disks, std::shared_ptr<Image> memory,
                                       std::shared_ptr<Endurance> endurance) {
  std::vector<MountedFile> files;
  for (const auto& disk : disks) files.push_back({disk->name() + ".raw", disk});
  if (memory) files.push_back({kMemoryFileName, std::move(memory), std::move(endurance)});
  return files;
}

void Machine::mount(const std::shared_ptr<Image>& memory) {
  session_.make_state_certain();  // else what is written now could turn out to lie over something else
  const auto endurance = std::make_shared<Endurance>();
  *endurance_.lock() = endurance;
  std::vector<MountedFile> files = mounted_files(session_.images().disks(), memory, endurance);
  runtime_directory(paths_);
  // A dead mount of a daemon that was killed stands in the way of making the directory, too.
  if (is_dead_mount(mount_directory_)) isr::unmount(mount_directory_);
  make_private_directory(mount_directory_);
  MountOptions options;
  options.source_name = mount_source(parcel_id_);
  options.immutable = !memory && session_.state().phase == SessionPhase::kSuspended;
  auto mount = host_->make_mount(mount_directory_, std::move(files), stats_json_, options);
  mount->start();
  mount_ = std::move(mount);  // only now: one that did not start is tried again
}

void Machine::mount_disks() {
  unmount();
  mount(nullptr);
}

void Machine::try_to_mount_disks() noexcept {
  try {
    mount_disks();
  } catch (const std::exception& error) {
    log::error("the disks are not mounted: {}", error.what());
  }
}

void Machine::unmount() {
  if (!mount_) return;  // the directory may be another daemon's by now
  mount_.reset();
  std::error_code ignored;
  fs::remove(mount_directory_, ignored);
}

void Machine::require_unused() const {
  if (!mount_) return;
  const bool has_guest = running();  // which has them open, so that counting says nothing
  const std::vector<pid_t> ours = has_guest ? std::vector<pid_t>{vm_->pid()} : std::vector<pid_t>{};
  for (const auto began = Clock::now();; std::this_thread::sleep_for(kPoll)) {
    if (!has_guest && mount_->open_files() == 0) return;
    const auto users = find_file_users(mount_directory_, ours);
    if (has_guest && users.empty()) return;
    if (Clock::now() - began > (users.empty() ? kLongestRelease : kLettingGo)) throw_in_use(name_, users);
  }
}

void Machine::close_disks() {
  if (!mount_) return;
  mount_->refuse_writers();
  try {
    require_unused();
  } catch (...) {
    mount_->admit_writers();
    throw;
  }
}

void Machine::open_disks() {
  if (mount_) {
    mount_->admit_writers();
  } else {
    mount(nullptr);
  }
}

}  // namespace isr
