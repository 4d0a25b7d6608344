#pragma once

#include <thread>

#include "machine/vm_host.h"
#include "session/session.h"

namespace isr {

struct RehearsalOptions {
  std::chrono::milliseconds under_kvm{1000};  ///< how long the guest runs
  std::chrono::milliseconds under_tcg{2000};
  std::chrono::milliseconds deadline{5000};  ///< of the whole rehearsal
  std::string memory = "auto";               ///< the setting vm.memory: how QEMU maps guest memory
};

/// Runs the suspended state of a session once more, for a second, to find the pages that a resume will read first.
/// Nothing that this guest writes is kept, its network is isolated and its console goes nowhere. It reads only objects
/// that are on this host.
///
/// Errors:  the constructor throws those of VmHost and Session. A later failure is logged.
/// Threads: it has a thread of its own. Meanwhile the session may be published, but must not adopt the result.
class Rehearsal {
 public:
  /// Begins. Does nothing if the session has no suspended memory that is new.
  Rehearsal(Session& session, const Paths& paths, const std::string& parcel_id, std::shared_ptr<VmHost> host,
            const RehearsalOptions& options = {});
  ~Rehearsal();  ///< stops it and waits for its thread
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  /// Waits for the end, until the deadline at most. Returns the pages that were read by then, also after a failure.
  BootOrder take();
  /// Removes the directories of a rehearsal whose process was killed.
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
