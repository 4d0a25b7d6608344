#pragma once

#include <thread>

#include "image/settle_policy.h"
#include "session/session_images.h"

namespace isr {

/// Limits the space that a session uses on this host: settles its journal, removes settled objects that nothing needs,
/// and evicts objects from the cache when its disk gets full.
///
/// Threads: one at a time.
class Settler {
 public:
  /// Both must outlive this.
  Settler(SessionImages& images, SessionObjects& objects) : images_(images), objects_(objects) {}
  Settler(const Settler&) = delete;
  Settler& operator=(const Settler&) = delete;

  /// Does one step of each task that is due. Call a few times a second; a publish does so itself. Error{kIo};
  /// {kCancelled} on stop; else as ChunkReader.
  void settle_if_due(const std::stop_token& stop = {});

 private:
  void sweep();

  SessionImages& images_;
  SessionObjects& objects_;
  std::chrono::steady_clock::time_point tidied_{};
  SettlePolicy policy_;
  std::uint64_t swept_ = 0;  ///< sealed chunks that were superseded before the last sweep
  std::chrono::steady_clock::time_point swept_at_{};
};

/// Settles on a thread of its own, from start() until end() or destruction, because the guest keeps writing during a
/// long upload. Meanwhile no other thread may settle, or begin images anew.
class SettlingThread {
 public:
  /// The settler must outlive this.
  explicit SettlingThread(Settler& settler) : settler_(settler) {}

  /// When the system cannot start a thread, only logs this; the journal then grows until the next settling.
  void start();
  /// Aborts the current step, also one that fetches, and waits for its end.
  void end() { thread_ = {}; }

 private:
  Settler& settler_;
  std::jthread thread_;
};

}  // namespace isr
