#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/secret.h"

namespace isr {

/// Starts this same program with `arguments` in a session of its own, hands it
/// `secret` over a socket (never the command line or the environment) and waits
/// until it says that it is ready. Its stderr goes to `log_file`, within the limits of base/limited_log.h.
/// Rethrows the error that it reports; Error{kDaemon} when it dies or says
/// nothing for two minutes; {kCancelled} on stop, which leaves it running.
void start_background(const std::vector<std::string>& arguments, ByteView secret, const fs::path& log_file,
                      const std::stop_token& stop = {});

/// The other side, first, before any thread: SIGTERM and SIGINT wait to be taken, a closed pipe or terminal ends
/// nothing.
void block_signals();
/// Then: reads the secret, and logs to stderr from then on, first whether keys can be swapped out; then ready() or
/// failed(), once.
SecretBytes read_background_secret();
void background_ready();
void background_failed(const std::exception& error);

}  // namespace isr
