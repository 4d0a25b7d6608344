#pragma once

#include <thread>

#include "base/sync.h"
#include "vm/qmp_client.h"

namespace isr {

/// The means to act on a guest that wakes up. Each may throw Error{kVm}.
struct WakingGuest {
  std::function<void(bool up)> set_link;  ///< null: the network cable stays out
  std::function<bool()> agent_listens;
  std::function<bool(const Patience&)> set_clock;  ///< false: the agent does not answer in time, or refuses
};

struct AwakeningTimes {
  std::chrono::milliseconds cable_out{2000};  ///< Linux tells its programs of the cable once a second at most
  std::chrono::milliseconds cable_retry{1000};
  std::chrono::milliseconds late_answer{60000};  ///< for a guest whose memory comes over a slow line
};

/// Tells a guest that was resumed, perhaps hours later on another host, the time, and that its network has changed.
/// Runs beside the guest; no command waits for it.
///
/// Threads: one at a time, but words() any time; one of its own between go_on() and pause().
class Awakening {
 public:
  explicit Awakening(WakingGuest guest, AwakeningTimes times = {});
  ~Awakening();  ///< ends it at any step
  Awakening(const Awakening&) = delete;
  Awakening& operator=(const Awakening&) = delete;

  /// Begins, or goes on with what was left to do when it was paused.
  void go_on();
  /// Leaves the guest alone from now on, with its cable in; the cable stays out only when QEMU refuses several times.
  void pause();
  /// Describes, for a person, how the clock was set; empty before.
  std::string words() const { return *words_.lock(); }

 private:
  void run(const std::stop_token& stop);
  void pull_cable_out();
  bool put_cable_in();
  bool set_clock(std::chrono::milliseconds timeout, const std::stop_token& stop);

  WakingGuest guest_;
  AwakeningTimes times_;
  bool cable_to_do_;
  bool cable_is_out_ = false;  ///< or may be
  bool cable_was_refused_ = false;
  bool clock_to_do_ = true;
  Sync<std::string> words_;
  std::jthread thread_;  ///< last: it uses the rest
};

}  // namespace isr
