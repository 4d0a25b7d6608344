#pragma once

#include "fusefs/mount.h"
#include "vm/qemu.h"

namespace isr {

/// The services of the host that a machine uses: accelerators, VMs, mounts. Tests use a fake.
///
/// Errors:  as Qemu, make_mount(), choose_accelerator() and stamp_here().
/// Threads: any.
class VmHost {
 public:
  virtual ~VmHost() = default;
  /// `wanted` is as in the setting vm.accelerator. The result of probing the host is kept in the directory.
  virtual Accelerator choose_accelerator(const std::string& wanted, const std::filesystem::path& cache_directory) = 0;
  virtual VmStamp stamp(const VmSettings& settings, const Accelerator& accelerator) = 0;
  /// Starts a paused VM: before its boot, or, with a device state, as the VM was when that was saved.
  virtual std::unique_ptr<Vm> start_paused(const VmSettings& settings, const VmFiles& files,
                                           const Accelerator& accelerator, const QemuOptions& options,
                                           const std::optional<Bytes>& device_state) = 0;
  virtual std::unique_ptr<Mount> make_mount(const std::filesystem::path& directory, std::vector<MountedFile> files,
                                            std::function<std::string()> stats_json, const MountOptions& options) = 0;
};
std::shared_ptr<VmHost> make_qemu_host();

}  // namespace isr
