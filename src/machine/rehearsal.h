#pragma once

#include <thread>

#include "machine/vm_host.h"
#include "session/session.h"

namespace isr {

struct RehearsalOptions {
  std::chrono::milliseconds under_kvm{1000};  ///< how long the guest runs
  std::chrono::milliseconds under_tcg{2000};
  std::chrono::milliseconds deadline{5000};  ///< for all of it
  std::string memory = "auto";               ///< how QEMU maps it: the setting vm.memory
};

/// Runs the suspended state of a session once more, for a second, to see which pages a resume will read first. Nothing
/// that this guest does is kept, its network is isolated and its console goes nowhere; it reads only objects that are
/// on this host.
///
/// Errors:  of the constructor: as VmHost and Session. A failure after it is logged.
/// Threads: begins one of its own; the session may be published meanwhile, but not adopt the result.
class Rehearsal {
 public:
  /// Begins. Does nothing when the session has no suspended memory that is new.
  Rehearsal(Session& session, const Paths& paths, const std::string& parcel_id, std::shared_ptr<VmHost> host,
            const RehearsalOptions& options = {});
  ~Rehearsal();  ///< ends it
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  /// Waits for the end, at most until the deadline. Returns the pages that were read until then, also after a failure.
  BootOrder take();
  /// Takes away the directories of a rehearsal that was killed.
  static void clean_up(const Paths& paths, const std::string& parcel_id);

 private:
  void run(const std::stop_token& stop);

  RehearsalOptions options_;
  std::chrono::steady_clock::time_point began_;
  std::shared_ptr<VmHost> host_;
  fs::path mount_directory_;
  fs::path run_directory_;
  std::optional<RehearsalImages> images_;
  VmSettings settings_;
  VmFiles files_;
  Accelerator accelerator_;
  Bytes device_state_;
  std::condition_variable_any ended_cv_;
  Sync<bool> ended_{false};
  std::jthread thread_;
};

}  // namespace isr
