#pragma once

#include "base/progress.h"
#include "machine/awakening.h"
#include "machine/disk_mount.h"
#include "machine/machine_memory.h"
#include "machine/vm_stats.h"

namespace isr {

struct BootOptions {
  std::optional<NetworkMode> network;  ///< for this run and later ones; nullopt: unchanged
  bool isolate_network = false;        ///< in this run the guest reaches nothing outside
  std::string memory = "auto";         ///< the setting vm.memory: how QEMU maps guest memory
  std::string accelerator = "auto";
  bool fresh = false;                  ///< boot from the disks even if there is suspended memory
  std::optional<fs::path> cdrom;       ///< for a machine that boots; a resumed machine has an empty drive
  Prefetch prefetch = Prefetch::kAll;  ///< for a machine that is resumed
  ProgressFn progress;
  std::function<void()> before_run;  ///< called just before the guest runs; may refuse that by throwing
  std::stop_token stop;              ///< before the guest runs it makes start() undo its steps and throw kCancelled
};

/// A session's VM, and the mount and the memory that it runs on.
///
/// Threads: one at a time, unless a member says otherwise. Events of the VM arrive on its own threads.
class Machine {
 public:
  /// `stats_json` returns the contents of the mount's stats.json; it is called from any thread.
  Machine(Session& session, const Paths& paths, std::string name, std::string parcel_id,
          std::function<std::string()> stats_json, std::shared_ptr<VmHost> host);
  ~Machine();  ///< kills the VM, unmounts
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  /// The mount. It must not be unmounted while the VM runs.
  DiskMount& disks() { return disks_; }
  const DiskMount& disks() const { return disks_; }

  /// Boots, or resumes suspended memory. Returns true if it resumed. After a failure everything is as before, except
  /// for suspended memory: it is dropped if its guest has written to a disk, or if `fresh` is set and the failure came
  /// after MemoryImage::begin_run(). Error{kVm}, {kCancelled}.
  bool start(const BootOptions& options);
  /// To be called before suspend(): makes the guest's memory smaller by its page cache, which only repeats its disks.
  /// See page_cache.h.
  void drop_page_cache();
  /// Keeps memory, device state and disks on this host and ends the VM. If they cannot be kept, it throws and the VM
  /// runs on. Error{kVm} if no VM runs.
  void suspend();
  /// For Publisher::publish(): pauses the guest, copies its memory to the image, calls freeze(), lets the guest run on.
  MachineMoment checkpoint(const std::function<void()>& freeze);
  /// How long the last checkpoint paused the guest.
  std::chrono::microseconds last_pause() const { return last_pause_; }
  /// Asks the guest to shut down. Returns false if it did not switch off in time. Error{kCancelled}.
  bool power_down(const Patience& patience);
  /// Kills the VM and drops its memory.
  void power_off();

  /// Lets a guest run on that is held because a disk failed, or that is still paused because it could not run on after
  /// a failed suspend or a checkpoint. Returns false if there is no such guest.
  bool go_on_if_held();
  /// Once the guest or QEMU has ended by itself: drops its memory, mounts the disks and returns, in words, how it
  /// ended. Otherwise, and when called again, returns nullopt.
  std::optional<std::string> reap();
  /// Calls MachineMemory::read_around_if_due(); does nothing while no VM runs.
  void read_around_if_due();

  bool running() const { return vm_ != nullptr && !vm_->exit(); }
  /// The statistics of a running VM. Waits 2 s at most for a QEMU that does not answer.
  VmStats stats() const;
  /// Like MachineMemory::changed_bytes(); only while a VM runs.
  std::uint64_t changed_bytes_in_qemu() const { return memory_.changed_bytes(); }
  /// Like MachineMemory::hindrance(); from any thread.
  std::string memory_hindrance() const { return memory_.hindrance(); }
  /// Like MachineMemory::give_up(), to be called before power_off(); from any thread.
  void give_up_memory() { memory_.give_up(); }
  /// The console of the guest. It is kept after the guest has ended, until the next start; nullptr before the first
  /// start. From any thread, also while another member function runs.
  std::shared_ptr<SerialConsole> console() const { return *console_.lock(); }
  const Accelerator& accelerator() const { return accelerator_; }
  /// The network mode of the last start or resume.
  NetworkMode network() const { return network_; }

 private:
  void kill_vm();
  void release_vm();
  void cont();
  void go_on() noexcept;
  void set_network(NetworkMode mode, bool isolated);
  void begin_awakening();
  QemuOptions qemu_options(const std::string& memory) const;
  /// Chooses as `configured` says; a resume takes the accelerator that saved the memory. Error{kVm} if the memory
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
  bool stands_still_ = false;            ///< the guest should run but is paused
  Prefetch prefetch_ = Prefetch::kNone;  ///< of the last start
  std::chrono::microseconds last_pause_{0};
  std::unique_ptr<Awakening> awakening_;  ///< of a resumed guest; uses vm_
};

}  // namespace isr
