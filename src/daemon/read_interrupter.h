#pragma once

#include <chrono>
#include <thread>

#include "session/session.h"

namespace isr {

/// While it lives, interrupts once a period the session's reads that wait for the network, because QEMU pauses its
/// guest only once its disk reads are answered. If no thread can be started it logs that and does nothing.
class ReadInterrupter {
 public:
  ReadInterrupter(Session& session, std::chrono::milliseconds period) noexcept;

 private:
  std::jthread thread_;
};

}  // namespace isr
