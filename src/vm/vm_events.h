#pragma once

#include <optional>
#include <string>

#include "vm/qmp_client.h"

/// The events that QEMU reports, and how it ended.
namespace isr {

enum class VmEventKind {
  kRunning,
  kPaused,         ///< by stop(), or after kIoError
  kIoError,        ///< a disk failed and the guest is held: cont() tries again
  kReset,          ///< the guest restarts
  kGuestPanicked,  ///< the guest's kernel reported it; the guest decides what follows
  kExited,         ///< QEMU is gone; exit() says how
};
struct VmEvent {
  VmEventKind kind;
  std::string detail;
};

struct VmExit {
  enum class Reason {
    kGuestShutdown,  ///< by the guest itself, or after power_down()
    kQuit,           ///< by quit()
    kKilled,         ///< by kill()
    kDied,           ///< for any other reason: memory is lost, but flushed writes are not
  };
  Reason reason = Reason::kDied;
  std::string detail;  ///< text for the user; for kDied the signal or QEMU's last words
};

/// The state of the VM according to QEMU's events.
struct VmFacts {
  std::string migration;        ///< status in the last MIGRATION event
  std::string shutdown_reason;  ///< reason in the SHUTDOWN event, empty before
  bool io_error = false;
  bool guest_panicked = false;
  bool quit_asked = false;
  bool kill_asked = false;
  bool exiting = false;
  bool discarded = false;  ///< another QEMU replaces this one
  std::optional<VmExit> exit;

  /// Applies one QMP event; returns the event to report to the user of the machine, if any.
  std::optional<VmEvent> take_in(const QmpEvent& event);
  /// Call when QEMU has ended, with its wait status. `last_words` give the reason when it ended by itself.
  VmExit end(int status, const std::string& last_words);
};

}  // namespace isr
