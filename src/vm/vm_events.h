#pragma once

#include <optional>
#include <string>

#include "vm/qmp_client.h"

/// What a QEMU tells by itself of its machine, and how it ended.
namespace isr {

enum class VmEventKind {
  kRunning,
  kPaused,         ///< by stop(), or after kIoError
  kIoError,        ///< a disk failed and the guest is held: cont() tries again
  kReset,          ///< the guest restarts
  kGuestPanicked,  ///< its kernel said so; what follows is the guest's choice
  kExited,         ///< QEMU is gone; exit() says how
};
struct VmEvent {
  VmEventKind kind;
  std::string detail;
};

struct VmExit {
  enum class Reason {
    kGuestShutdown,  ///< switched off from inside, or after power_down()
    kQuit,           ///< by quit()
    kKilled,         ///< by kill()
    kDied,           ///< anything else: memory is lost, what was flushed is not
  };
  Reason reason = Reason::kDied;
  std::string detail;  ///< for a person; for kDied the signal or QEMU's last words
};

/// The state of the VM as QEMU's events have told it.
struct VmFacts {
  std::string migration;        ///< status of the last MIGRATION event
  std::string shutdown_reason;  ///< of SHUTDOWN, empty before
  bool io_error = false;
  bool guest_panicked = false;
  bool quit_asked = false;
  bool kill_asked = false;
  bool exiting = false;
  bool discarded = false;  ///< another QEMU takes its place
  std::optional<VmExit> exit;

  /// Takes in one event; returns what is news to whoever uses the machine.
  std::optional<VmEvent> take_in(const QmpEvent& event);
  /// QEMU has ended with this wait status. `last_words` say why when it did so by itself.
  VmExit end(int status, const std::string& last_words);
};

}  // namespace isr
