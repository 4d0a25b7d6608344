// A rehearsal has a mount and a run directory of its own, beside those of the machine, and removes both at its end.

#include "machine/rehearsal.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "machine/machine_files.h"
#include "machine/run_directory.h"

namespace isr {
namespace {

constexpr int kNice = 5;
constexpr const char* kSuffix = "-rehearsal";

fs::path beside(const fs::path& directory) { return directory.string() + kSuffix; }

}  // namespace

Rehearsal::Rehearsal(Session& session, const Paths& paths, const std::string& parcel_id, std::shared_ptr<VmHost> host,
                     const RehearsalOptions& options)
    : options_(options),
      began_(std::chrono::steady_clock::now()),
      host_(std::move(host)),
      mount_directory_(beside(mount_directory(paths, parcel_id))),
      run_directory_(beside(vm_directory(paths, parcel_id))),
      images_(session.rehearsal_images()) {
  if (!images_) return;
  const SessionState& state = session.state();
  settings_ = state.vm;
  accelerator_ = host_->choose_accelerator(state.stamp.value().accelerator, runtime_directory(paths));
  files_ = vm_files(parcel_id, images_->disks, mount_directory_);
  files_.isolate_network = true;
  device_state_ = session.memory().device_state();
  clean_up(paths, parcel_id);
  thread_ = std::jthread([this](const std::stop_token& stop) {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
    try {
      run(stop);
    } catch (const std::exception& error) {
      if (!stop.stop_requested()) log::warn("rehearsing a resume: {}", error.what());
    }
    *ended_.lock() = true;
    ended_cv_.notify_all();
  });
}

Rehearsal::~Rehearsal() = default;

void Rehearsal::clean_up(const Paths& paths, const std::string& parcel_id) {
  const fs::path mount = beside(mount_directory(paths, parcel_id));
  std::error_code ignored;
  if (is_dead_mount(mount)) isr::unmount(mount);
  fs::remove(mount, ignored);
  fs::remove_all(beside(vm_directory(paths, parcel_id)), ignored);
}

void Rehearsal::run(const std::stop_token& stop) {
  const struct Directories {
    explicit Directories(const Rehearsal& of) : mount(of.mount_directory_), run(of.run_directory_) {
      make_private_directory(mount);
    }
    ~Directories() {
      std::error_code ignored;
      fs::remove(mount, ignored);
      fs::remove_all(run, ignored);
    }
    Directories(const Directories&) = delete;
    Directories& operator=(const Directories&) = delete;
    fs::path mount, run;
  } directories(*this);
  MountOptions mount_options;
  mount_options.source_name = mount_source(files_.name);
  std::vector<MountedFile> files = mounted_disks(images_->disks);
  files.push_back(mounted_memory(images_->memory, std::make_shared<Endurance>()));
  const auto mount = host_->make_mount(
      mount_directory_, std::move(files), [] { return std::string("{}\n"); }, mount_options);
  mount->start();
  QemuOptions qemu = make_run_directory(run_directory_, options_.memory);
  qemu.patience = {options_.deadline, stop};
  const auto vm = host_->start_paused(settings_, files_, accelerator_, qemu, device_state_);
  vm->cont();
  vm->wait_exit({accelerator_.name == "kvm" ? options_.under_kvm : options_.under_tcg, stop});
}

BootOrder Rehearsal::take() {
  if (!images_) return {};
  {
    auto ended = ended_.lock();
    ended_cv_.wait_until(ended.mutex_lock(), began_ + options_.deadline, [&] { return *ended; });
  }
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
  return images_->touches->order();
}

}  // namespace isr
