#pragma once

#include <functional>
#include <memory>
#include <stop_token>

namespace isr {

/// Ctrl-C, SIGTERM and SIGHUP while a command runs. A command that asked for
/// token() is stopped by the first and ended by the second; one that did not is
/// ended at once. Ended means exit 130. SIGPIPE is ignored: see Output. SIGUSR1 asks for
/// a line of status: answer_status_requests().
/// One at a time; from construction to destruction.
class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  std::stop_token token();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What SIGUSR1 calls from now on, on a thread of its own; nullptr for nothing. When it
/// returns, the one before is not running and will not.
void answer_status_requests(std::function<void()> answer);

}  // namespace isr
