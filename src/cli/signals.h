#pragma once

#include <functional>
#include <memory>
#include <stop_token>

namespace isr {

/// Handles Ctrl-C, SIGTERM and SIGHUP while a command runs. The first one stops a command that asked for token(), the
/// second ends it. A command that did not ask is ended at once. Ended means exit 130. SIGPIPE is ignored: see Output.
/// SIGUSR1 asks for a status line: answer_status_requests().
/// Only one object may exist at a time.
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

/// Sets the function that SIGUSR1 calls, on a thread of its own; nullptr for none. On return the previous function is
/// not running and will not be called again.
void answer_status_requests(std::function<void()> answer);

}  // namespace isr
