#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "vm/process_memory.h"
#include "vm/qmp_client.h"
#include "vm/settings.h"
#include "vm/vm_events.h"

/// A running VM as a machine uses it. Qemu implements it, and tests have another implementation. qemu.h and
/// guest_memory.h describe each function and when it may be called.
namespace isr {

class GuestAgent;
class SerialConsole;

/// How a VM maps guest memory (docs/decisions/0013-private-guest-memory.md).
enum class MemoryMapping {
  kShared,   ///< maps the file shared; the kernel writes the guest's changes back to it
  kPrivate,  ///< maps the file copy-on-write; only QEMU has the guest's changes
  kZeros,    ///< as kPrivate, but without a file: for a machine whose memory began as zeros
};
std::string_view to_name(MemoryMapping mapping);

/// The contents of a page in the VM's memory.
struct SampledPage {
  std::uint64_t offset = 0;  ///< in the file
  Bytes bytes;
};

class VmMemory {
 public:
  virtual ~VmMemory() = default;
  virtual MemoryMapping mapping() const noexcept = 0;
  virtual bool read_around() = 0;
  virtual std::optional<std::vector<MemoryRange>> begin_tracking() = 0;
  virtual void end_tracking() = 0;
  virtual std::vector<MemoryRange> take_written() const = 0;
  virtual std::vector<MemoryRange> changed() const = 0;
  virtual void visit(std::span<const MemoryRange> runs,
                     const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const = 0;
  virtual std::vector<SampledPage> sample(std::size_t most, std::uint64_t seed) const = 0;
};

struct VmStatus {
  std::string state;  ///< QEMU's word: "running", "paused", "io-error", "postmigrate", …
  bool running = false;
  bool io_error = false;        ///< the machine is held because of one, since the last cont()
  bool guest_panicked = false;  ///< since the last reset
};

class Vm {
 public:
  virtual ~Vm() = default;
  virtual void cont() = 0;
  virtual void stop() = 0;
  virtual bool power_down(const Patience& patience) = 0;
  virtual Bytes save_device_state() = 0;
  virtual VmMemory& memory() noexcept = 0;
  virtual bool agent_listens() = 0;
  virtual GuestAgent& agent() noexcept = 0;
  virtual void set_link(bool up) = 0;
  virtual void quit() = 0;
  virtual void kill(const std::function<void()>& let_go) = 0;

  virtual VmStatus status(const Patience& patience) = 0;
  virtual bool held_by_io_error() const = 0;
  virtual bool guest_panicked() const = 0;
  virtual pid_t pid() const noexcept = 0;
  virtual std::shared_ptr<SerialConsole> console() const noexcept = 0;
  virtual std::filesystem::path vnc_socket() const = 0;
  virtual const VmStamp& stamp() const noexcept = 0;
  virtual std::optional<VmExit> exit() const = 0;
  virtual std::optional<VmExit> wait_exit(const Patience& patience) const = 0;
};

}  // namespace isr
