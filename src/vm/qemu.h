#pragma once

#include <sys/types.h>

#include <memory>

#include "base/bytes.h"
#include "vm/accelerator.h"
#include "vm/command_line.h"
#include "vm/guest_agent.h"
#include "vm/guest_memory.h"
#include "vm/qmp_client.h"
#include "vm/serial_console.h"
#include "vm/settings.h"
#include "vm/vm.h"
#include "vm/vm_events.h"

namespace isr {

struct QemuOptions {
  std::string program = "qemu-system-x86_64";
  /// Private (0700) directory: QEMU's working directory, where vnc.sock appears.
  std::filesystem::path run_directory;
  /// Map guest memory privately where the host can do that. memory().mapping() tells the result.
  bool private_memory = true;
  Patience patience;                      ///< for each single answer
  std::size_t console_bytes = 4U << 20U;  ///< of console text that is kept
  /// Called on a thread of the Qemu. It must not call the Qemu and must not throw.
  std::function<void(const VmEvent&)> on_event;
};

inline constexpr std::size_t kMaxDeviceState = 64U << 20U;

/// One running QEMU, a child that dies with this process. Its memory is a file that the caller keeps
/// (docs/decisions/0005-memory-as-a-file.md). With a private mapping the file lacks the data that
/// memory().visit_changed() returns (docs/decisions/0013-private-guest-memory.md).
///
///   state    entered by                            guarantee
///   paused   start_paused(), resume_paused(), stop()  nothing changes; save_device_state() is allowed
///   running  cont()
///   saved    save_device_state()                   quit(), or cont() to continue
///   exited   quit(), kill(), the guest, an accident   every call but exit() is Error{kVm}
///
/// Errors:  kVm, with QEMU's last words on stderr when it died; kCancelled.
/// Threads: every call from any thread; only one changes the state at a time.
class Qemu : public Vm {
 public:
  /// Starts a machine that has not begun to boot. The memory file must be all zeros.
  static std::unique_ptr<Qemu> start_paused(const VmSettings& settings, const VmFiles& files,
                                            const Accelerator& accelerator, const QemuOptions& options);
  /// Starts a machine in the state of device_state. The memory file must be the one of the same moment.
  static std::unique_ptr<Qemu> resume_paused(const VmSettings& settings, const VmFiles& files,
                                             const Accelerator& accelerator, const QemuOptions& options,
                                             ByteView device_state);
  ~Qemu() override;  ///< kills QEMU if it still runs
  Qemu(const Qemu&) = delete;
  Qemu& operator=(const Qemu&) = delete;

  void cont() override;
  /// Pauses the guest. On return the disks are flushed.
  void stop() override;
  /// Presses the power button every few seconds until the guest has switched off. Returns false when it has not in time
  /// (it may still do so later).
  bool power_down(const Patience& patience) override;
  /// Returns the guest's whole state except memory and disks. The machine must be paused.
  Bytes save_device_state() override;
  /// How memory is mapped, and which parts of it the memory file lacks. Valid as long as the Qemu.
  GuestMemory& memory() noexcept override;
  /// True while a program in the guest has opened the agent's port.
  bool agent_listens() override;
  GuestAgent& agent() noexcept override;
  /// Plugs the guest's network cable in or out.
  void set_link(bool up) override;
  /// Ends QEMU without asking the guest; returns when it is gone.
  void quit() override;
  /// As quit(), but at once. `let_go` is called repeatedly until QEMU is gone. It must end reads of QEMU that wait for
  /// us.
  void kill(const std::function<void()>& let_go = {}) override;

  VmStatus status(const Patience& patience) override;
  VmStatus status();
  /// As in VmStatus, but from QEMU's events; sends no request.
  bool held_by_io_error() const override;
  bool guest_panicked() const override;
  pid_t pid() const noexcept override;
  /// Outlives the machine while a caller holds it, so that the last output can be read.
  std::shared_ptr<SerialConsole> console() const noexcept override;
  std::filesystem::path vnc_socket() const override;
  const VmStamp& stamp() const noexcept override;
  /// How QEMU ended; nullopt while it runs.
  std::optional<VmExit> exit() const override;
  /// Waits for the end of QEMU; nullopt on time-out. Error{kCancelled}.
  std::optional<VmExit> wait_exit(const Patience& patience) const override;

 private:
  struct Impl;
  explicit Qemu(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
