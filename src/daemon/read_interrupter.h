#pragma once

#include <chrono>
#include <thread>

#include "session/session.h"

namespace isr {

/// Interrupts the session's reads that wait for the network, again and again for as long as it lives: QEMU stops only
/// once its disk reads are answered. Without a thread to spare it does nothing.
class ReadInterrupter {
 public:
  ReadInterrupter(Session& session, std::chrono::milliseconds period) noexcept;

 private:
  std::jthread thread_;
};

}  // namespace isr
