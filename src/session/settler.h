#pragma once

#include <thread>

#include "image/settle_policy.h"
#include "session/session_images.h"

namespace isr {

/// Keeps what a session has on this host small: settles its journal, takes out settled objects that nothing needs, and
/// evicts what is too much on the cache's disk.
///
/// Threads: one at a time.
class Settler {
 public:
  /// Both must outlive this.
  Settler(SessionImages& images, SessionObjects& objects) : images_(images), objects_(objects) {}
  Settler(const Settler&) = delete;
  Settler& operator=(const Settler&) = delete;

  /// Takes one step of each for which it is time. To be called a few times a second; a publish does so itself.
  /// Error{kIo}; {kCancelled} on stop; as ChunkReader.
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

/// Settles on a thread of its own, from start() until end() or destruction: the guest keeps writing, however long an
/// upload takes. Meanwhile no other thread settles, or changes which images there are.
class SettlingThread {
 public:
  /// The settler must outlive this.
  explicit SettlingThread(Settler& settler) : settler_(settler) {}

  /// When the system has no thread to spare, logs that, and the journal grows until the next settling.
  void start();
  /// Aborts a step that is going on, also one that fetches, and waits for its end.
  void end() { thread_ = {}; }

 private:
  Settler& settler_;
  std::jthread thread_;
};

}  // namespace isr
