#pragma once

#include "base/progress.h"
#include "machine/awakening.h"
#include "machine/vm_host.h"
#include "session/session.h"

namespace isr {

struct BootOptions {
  std::optional<NetworkMode> network;  ///< from now on; nullopt: as it was
  bool isolate_network = false;        ///< this time nothing outside can be reached
  std::string memory = "auto";         ///< how QEMU maps it: the setting vm.memory
  std::string accelerator = "auto";
  bool fresh = false;                  ///< boot from the disks even where suspended memory is there
  std::optional<fs::path> cdrom;       ///< in the drive of a machine that boots; one that continues finds it empty
  Prefetch prefetch = Prefetch::kAll;  ///< of one that continues
  ProgressFn progress;
  std::function<void()> before_run;  ///< may refuse it, by throwing
  std::stop_token stop;              ///< until the guest runs: nothing has happened then. Error{kCancelled}
};

/// A running VM.
struct VmStats {
  pid_t pid = 0;
  std::string state;      ///< as QMP names it ("running", "paused", …), or "not answering"
  bool io_error = false;  ///< it is held because a disk failed
  bool guest_panicked = false;
  Accelerator accelerator;
  std::string memory;     ///< how QEMU maps it: to_name(MemoryMapping)
  std::string awakening;  ///< what was done about the clock of a resumed guest; empty before
  fs::path vnc_socket;
};

/// The session's mount and VM: what runs on its images.
///
/// Threads: one at a time, but vm() events come on QEMU's threads.
class Machine {
 public:
  /// `stats_json` is what the mount's file of that name says; from any thread.
  Machine(Session& session, const Paths& paths, std::string name, std::string parcel_id,
          std::function<std::string()> stats_json, std::shared_ptr<VmHost> host = make_qemu_host());
  ~Machine();  ///< kills the VM, unmounts

  /// Mounts the disks; read-only while suspended memory relies on them.
  void mount_disks();
  /// As above, but logs a failure.
  void try_to_mount_disks() noexcept;
  void unmount();
  /// Error{kVm}, naming who: somebody other than the VM has a file of the mount open, or a loop device stands on it.
  void require_unused() const;
  /// As require_unused(). From then on writing to the disks fails with EROFS until open_disks().
  void close_disks();
  /// Ends that; mounts the disks where they are not.
  void open_disks();
  /// Boots, or continues suspended memory. Says whether it continued. After a
  /// failure everything is as before. Error{kVm}, {kCancelled}.
  bool start(const BootOptions& options);
  /// To be called before suspend(): an agent in the guest, if there is one, makes its memory smaller by what is on its
  /// disks anyway. Takes 5 s at most, 2.5 s when it does not answer. Never fails.
  void drop_page_cache();
  /// Memory, device state and disks are kept in the journal; the VM is gone. When
  /// it cannot be kept the VM goes on. Error{kVm} when none runs.
  void suspend();
  /// False: the guest did not switch off in time. Error{kCancelled}.
  bool power_down(const Patience& patience);
  /// The VM and its memory are gone.
  void power_off();
  /// Brings memory's image (of MemoryImage::begin()) up to what the guest has, which must be paused. Fetches
  /// nothing. The machine can go on, and after a failure, too.
  void copy_changed_memory();
  /// Once a resumed guest has had time to touch what it needs first, page faults begin to read around. To be called a
  /// few times a second.
  void read_around_if_due();
  /// Of memory: what the guest changed that is not in its image.
  std::uint64_t changed_bytes_in_qemu() const;
  /// For Publisher::publish(): pauses the guest, brings its memory to the image, calls freeze(), lets it go on.
  MachineMoment checkpoint(const std::function<void()>& freeze);
  /// How long the guest stood still in the last checkpoint.
  std::chrono::microseconds last_pause() const { return last_pause_; }

  /// Says what was done about the clock of a resumed guest; empty before.
  std::string awakening() const { return awakening_ ? awakening_->words() : std::string(); }

  /// Lets a guest go on that is held because a disk failed, or that stands still because it
  /// could not be let go on after a suspend or checkpoint. False when none is.
  bool go_on_if_held();
  /// Why the guest's memory cannot be written now, so that the guest waits; empty when it can. From any thread.
  std::string memory_hindrance() const { return (*endurance_.lock())->hindrance.lock()->why; }
  /// Before power_off(), from any thread: whatever waits for memory to be written fails. Memory must not be
  /// kept any more, and is not.
  void give_up_memory() { (*endurance_.lock())->given_up = true; }
  /// After the guest or QEMU ended by itself: puts the session in order, once. Says how it ended.
  std::optional<std::string> reap();
  /// The statistics of a running VM. Waits 2 s at most for a QEMU that does not answer.
  VmStats stats() const;
  bool running() const { return vm_ != nullptr && !vm_->exit(); }
  Vm* vm() const { return vm_.get(); }
  /// The console of the guest, also after it has ended: kept until the next start. nullptr
  /// before the first. From any thread, also while another call of this runs.
  std::shared_ptr<SerialConsole> console() const { return *console_.lock(); }
  const Accelerator& accelerator() const { return accelerator_; }
  /// Network of the last start or resume.
  NetworkMode network() const { return network_; }
  const fs::path& directory() const { return mount_directory_; }
  bool mounted() const { return mount_ != nullptr; }

 private:
  void mount(const std::shared_ptr<Image>& memory);
  void kill_vm();
  void release_vm();
  void cont();
  void go_on() noexcept;
  void set_network(NetworkMode mode, bool isolated);
  void begin_awakening();
  void write_back_memory();
  void copy_memory_ahead();
  void copy(std::span<const MemoryRange> runs);
  void end_copy() noexcept;
  void sample_memory(MemoryWitness& witness) const;
  QemuOptions qemu_options(const std::string& memory) const;
  /// As `configured`; a machine that was suspended goes on with what it had. Error{kVm} when its memory cannot be
  /// loaded.
  void choose_accelerator(const std::string& configured, bool resume);

  Session& session_;
  Paths paths_;
  std::string name_;
  std::string parcel_id_;
  fs::path mount_directory_;
  fs::path run_directory_;
  std::function<std::string()> stats_json_;
  std::shared_ptr<VmHost> host_;
  std::unique_ptr<Mount> mount_;
  std::shared_ptr<Image> memory_;                                              ///< mounted as memory.raw
  std::shared_ptr<LiveMemory> live_;                                           ///< what that writes to
  Sync<std::shared_ptr<Endurance>> endurance_{std::make_shared<Endurance>()};  ///< of memory.raw
  bool tracking_ = false;                    ///< the guest's writes, while memory is copied
  Sync<std::vector<MemoryRange>> left_out_;  ///< of that copy: what was given back meanwhile
  std::optional<std::chrono::steady_clock::time_point> read_around_at_;
  std::unique_ptr<Vm> vm_;
  Sync<std::shared_ptr<SerialConsole>> console_;
  NetworkMode network_ = NetworkMode::kNone;
  Accelerator accelerator_;
  bool stands_still_ = false;            ///< though it is to run
  Prefetch prefetch_ = Prefetch::kNone;  ///< of the start
  std::chrono::microseconds last_pause_{0};
  std::unique_ptr<Awakening> awakening_;  ///< of a guest that was resumed; uses vm_
};

/// The files of a mount, and what of them a VM gets.
std::vector<MountedFile> mounted_files(const std::vector<std::shared_ptr<Image>>& disks, std::shared_ptr<Image> memory,
                                       std::shared_ptr<Endurance> endurance);
/// Under a part of the parcel's id: ps shows every user how a process was started, and its name is nobody's business.
VmFiles vm_files(const std::string& parcel_id, const std::vector<std::shared_ptr<Image>>& disks, const fs::path& mount);
/// The source of a mount, for which the same holds: every user can read /proc/mounts.
std::string mount_source(const std::string& parcel_id);
/// memory: the setting vm.memory. Makes the directory.
QemuOptions qemu_options_in(const fs::path& run_directory, const std::string& memory);

/// Guest memory's name in the mount.
inline constexpr const char* kMemoryFileName = "memory.raw";

/// Why suspended memory of this version cannot be loaded on this host; nullopt
/// when it can. Asks QEMU, downloads nothing.
std::optional<std::string> why_not_resumable(const VmSettings& vm, const VmStamp& stamp, const Paths& paths);

}  // namespace isr
