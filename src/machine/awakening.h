#pragma once

#include <thread>

#include "base/sync.h"
#include "vm/qmp_client.h"

namespace isr {

/// The actions on a resumed guest. Each may throw Error{kVm}.
struct WakingGuest {
  std::function<void(bool up)> set_link;  ///< null: the guest has no network, so its cable stays out
  std::function<bool()> agent_listens;
  std::function<bool(const Patience&)> set_clock;  ///< false: the agent does not answer in time, or refuses
};

struct AwakeningTimes {
  std::chrono::milliseconds cable_out{2000};  ///< above 1 s: Linux reports a cable once a second at most
  std::chrono::milliseconds cable_retry{1000};
  std::chrono::milliseconds late_answer{60000};  ///< for an agent whose memory arrives over a slow link
};

/// Sets the clock of a resumed guest, which may have been suspended hours ago on another host, and lets it notice that
/// its network has changed. Works in the background; no command waits for it.
///
/// Threads: one at a time; words() from any. It has a thread of its own between go_on() and pause().
class Awakening {
 public:
  explicit Awakening(WakingGuest guest, AwakeningTimes times = {});
  ~Awakening();  ///< stops after any step; the cable may stay out
  Awakening(const Awakening&) = delete;
  Awakening& operator=(const Awakening&) = delete;

  /// Begins, or continues with the steps that pause() cut short.
  void go_on();
  /// Stops acting on the guest and puts its cable in. The cable stays out only if QEMU refuses several times.
  void pause();
  /// Says, in words for a person, how the clock was set; empty until then.
  std::string words() const { return *words_.lock(); }

 private:
  void run(const std::stop_token& stop);
  void pull_cable_out();
  bool put_cable_in();
  bool set_clock(std::chrono::milliseconds timeout, const std::stop_token& stop);

  WakingGuest guest_;
  AwakeningTimes times_;
  bool cable_to_do_;
  bool cable_is_out_ = false;  ///< true also if it may be out
  bool cable_was_refused_ = false;
  bool clock_to_do_ = true;
  Sync<std::string> words_;
  std::jthread thread_;  ///< declared last: it uses the other members
};

}  // namespace isr
