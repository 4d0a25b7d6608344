#include "machine/vm_host.h"

namespace isr {
namespace {

class QemuHost : public VmHost {
 public:
  Accelerator choose_accelerator(const std::string& wanted, const std::filesystem::path& cache_directory) override {
    return isr::choose_accelerator(parse_accelerator_choice(wanted), cache_directory);
  }
  VmStamp stamp(const VmSettings& settings, const Accelerator& accelerator) override {
    return stamp_here(settings, accelerator);
  }
  std::unique_ptr<Vm> start_paused(const VmSettings& settings, const VmFiles& files, const Accelerator& accelerator,
                                   const QemuOptions& options, const std::optional<Bytes>& device_state) override {
    return device_state ? Qemu::resume_paused(settings, files, accelerator, options, *device_state)
                        : Qemu::start_paused(settings, files, accelerator, options);
  }
  std::unique_ptr<Mount> make_mount(const std::filesystem::path& directory, std::vector<MountedFile> files,
                                    std::function<std::string()> stats_json, const MountOptions& options) override {
    return isr::make_mount(directory, std::move(files), std::move(stats_json), options);
  }
};

}  // namespace

std::shared_ptr<VmHost> make_qemu_host() { return std::make_shared<QemuHost>(); }

}  // namespace isr
