#pragma once

#include <thread>

#include "machine/machine.h"

namespace isr {

struct RehearsalOptions {
  std::chrono::milliseconds under_kvm{1000};  ///< how long the guest runs
  std::chrono::milliseconds under_tcg{2000};
  std::chrono::milliseconds deadline{5000};  ///< for all of it
  std::string memory = "auto";               ///< how QEMU maps it: the setting vm.memory
};

/// Runs the suspended state of a session once more, for a second, to see what a resume will read
/// first. Nothing that this guest does is kept, its network is isolated and its console goes nowhere; it
/// gets only what is on this host.
///
/// Threads: begins one of its own; the session may be published meanwhile, but not adopt the result.
class Rehearsal {
 public:
  /// Begins. Does nothing when the session has no suspended memory that is new.
  Rehearsal(Session& session, const Paths& paths, const std::string& name, const std::string& parcel_id,
            const RehearsalOptions& options = {});
  ~Rehearsal();  ///< ends it
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  /// Waits for the end, at most until the deadline. Returns what was read until then, also when it failed.
  BootOrder take();
  /// Takes away what one that was killed left.
  static void clean_up(const Paths& paths, const std::string& parcel_id);

 private:
  void run(const std::stop_token& stop);

  RehearsalOptions options_;
  std::chrono::steady_clock::time_point began_;
  std::string name_;
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
