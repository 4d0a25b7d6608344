#include "daemon/read_interrupter.h"

#include "base/log.h"
#include "base/sleep.h"

namespace isr {

ReadInterrupter::ReadInterrupter(Session& session, std::chrono::milliseconds period) noexcept {
  try {
    thread_ = std::jthread([&session, period](const std::stop_token& stop) {
      for (sleep_unless_stopped(period, stop); !stop.stop_requested(); sleep_unless_stopped(period, stop)) {
        try {
          session.interrupt_reads();
        } catch (const std::exception& error) {
          log::warn("interrupting reads: {}", error.what());
        }
      }
    });
  } catch (const std::system_error& error) {
    log::warn("cannot interrupt waiting reads: {}", error.what());
  }
}

}  // namespace isr
