#pragma once

#include "base/progress.h"
#include "machine/awakening.h"
#include "machine/disk_mount.h"
#include "machine/machine_memory.h"
#include "machine/vm_stats.h"

namespace isr {

struct BootOptions {
  std::optional<NetworkMode> network;  ///< of the machine from now on; nullopt: unchanged
  bool isolate_network = false;        ///< in this run the guest reaches nothing outside
  std::string memory = "auto";         ///< how QEMU maps it: the setting vm.memory
  std::string accelerator = "auto";
  bool fresh = false;             ///< boot from the disks even where suspended memory is there
  std::optional<fs::path> cdrom;  ///< in the drive of a machine that boots; the drive of one that continues is empty
  Prefetch prefetch = Prefetch::kAll;  ///< of a machine that continues
  ProgressFn progress;
  std::function<void()> before_run;  ///< may refuse the run by throwing
  std::stop_token stop;  ///< honoured until the guest runs; start() undoes what it did and throws Error{kCancelled}
};

/// A session's VM, and the mount and the memory that it runs on.
///
/// Threads: one at a time, but events of the VM come on QEMU's threads.
class Machine {
 public:
  /// `stats_json` is the contents of the mount's file of that name; it is called from any thread.
  Machine(Session& session, const Paths& paths, std::string name, std::string parcel_id,
          std::function<std::string()> stats_json, std::shared_ptr<VmHost> host);
  ~Machine();  ///< kills the VM, unmounts
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  /// The mount. It must not be taken away while the VM runs.
  DiskMount& disks() { return disks_; }
  const DiskMount& disks() const { return disks_; }

  /// Boots, or continues suspended memory. Returns whether it continued. After a failure everything is as before.
  /// Error{kVm}, {kCancelled}.
  bool start(const BootOptions& options);
  /// To be called before suspend(): the guest's memory becomes smaller by what is on its disks anyway, as
  /// page_cache.h says.
  void drop_page_cache();
  /// Keeps memory, device state and disks in the journal; the VM is gone. When they cannot be kept the VM goes on.
  /// Error{kVm} when none runs.
  void suspend();
  /// For Publisher::publish(): pauses the guest, brings its memory to the image, calls freeze(), lets it go on.
  MachineMoment checkpoint(const std::function<void()>& freeze);
  /// How long the guest stood still in the last checkpoint.
  std::chrono::microseconds last_pause() const { return last_pause_; }
  /// Returns false when the guest did not switch off in time. Error{kCancelled}.
  bool power_down(const Patience& patience);
  /// The VM and its memory are gone.
  void power_off();

  /// Lets a guest go on that is held because a disk failed, or that stands still because it could not be let go on
  /// after a suspend or checkpoint. Returns false when there is none.
  bool go_on_if_held();
  /// After the guest or QEMU ended by itself: puts the session in order, once. Returns how it ended, in words.
  std::optional<std::string> reap();
  /// As MachineMemory says; does nothing while no VM runs.
  void read_around_if_due();

  bool running() const { return vm_ != nullptr && !vm_->exit(); }
  /// The statistics of a running VM. Waits 2 s at most for a QEMU that does not answer.
  VmStats stats() const;
  /// See MachineMemory; only while a VM runs.
  std::uint64_t changed_bytes_in_qemu() const { return memory_.changed_bytes(); }
  /// As MachineMemory says; from any thread.
  std::string memory_hindrance() const { return memory_.hindrance(); }
  /// Before power_off(), as MachineMemory says; from any thread.
  void give_up_memory() { memory_.give_up(); }
  /// The console of the guest, also after the guest has ended: kept until the next start. nullptr
  /// before the first. From any thread, also while another call of this runs.
  std::shared_ptr<SerialConsole> console() const { return *console_.lock(); }
  const Accelerator& accelerator() const { return accelerator_; }
  /// Network of the last start or resume.
  NetworkMode network() const { return network_; }

 private:
  void kill_vm();
  void release_vm();
  void cont();
  void go_on() noexcept;
  void set_network(NetworkMode mode, bool isolated);
  void begin_awakening();
  QemuOptions qemu_options(const std::string& memory) const;
  /// As `configured`; a machine that was suspended goes on with the accelerator that it had. Error{kVm} when its memory
  /// cannot be loaded.
  void choose_accelerator(const std::string& configured, bool resume);

  Session& session_;
  Paths paths_;
  std::string name_;
  std::string parcel_id_;
  fs::path run_directory_;
  std::shared_ptr<VmHost> host_;
  DiskMount disks_;
  MachineMemory memory_;
  std::unique_ptr<Vm> vm_;
  Sync<std::shared_ptr<SerialConsole>> console_;
  NetworkMode network_ = NetworkMode::kNone;
  Accelerator accelerator_;
  bool stands_still_ = false;            ///< the guest is to run and does not
  Prefetch prefetch_ = Prefetch::kNone;  ///< of the start
  std::chrono::microseconds last_pause_{0};
  std::unique_ptr<Awakening> awakening_;  ///< of a guest that was resumed; uses vm_
};

}  // namespace isr
