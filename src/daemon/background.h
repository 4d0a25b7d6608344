#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/secret.h"

namespace isr {

/// Starts this same program with `arguments` as a daemon in a POSIX session of its own, hands it `secret` over a socket
/// (never the command line or the environment) and waits until it is ready. Its stderr goes to `log_file`, within the
/// limits of base/limited_log.h.
/// Rethrows the error that the daemon reports. Error{kDaemon} if it dies, or is not ready within two minutes (it goes
/// on then); {kCancelled} on stop, after killing it.
void start_background(const std::vector<std::string>& arguments, ByteView secret, const fs::path& log_file,
                      const std::stop_token& stop = {});

/// To be called by the daemon first, before it starts a thread. Blocks SIGTERM and SIGINT, so that they stay pending
/// until the daemon takes them. Ignores SIGPIPE and SIGHUP, so that a closed pipe or terminal does not end it.
void block_signals();
/// To be called by the daemon next. Directs the log to stderr, warns if keys may be swapped out, and reads the secret.
/// background_ready() or background_failed() must follow, once.
SecretBytes read_background_secret();
void background_ready();
void background_failed(const std::exception& error);

}  // namespace isr
