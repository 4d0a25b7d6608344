#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"

namespace isr {

struct ServerOptions {
  std::filesystem::path root;         ///< the repository's directory; must exist
  std::string address = "127.0.0.1";  ///< loopback only
  std::uint16_t port = 0;             ///< 0: any free port
  std::filesystem::path port_file;    ///< when set, "PORT\n" is written there once the server listens
  bool read_only = false;
  bool allow_delete = false;  ///< when false, DELETE is answered with 403
  /// Further names that the Host header may have, for example behind a TLS proxy.
  std::vector<std::string> host_names;

  unsigned disk_threads = 16;
  /// Above this number, the connection that has waited longest without a request is closed.
  unsigned max_connections = 4096;
  std::chrono::milliseconds idle_timeout{75'000};    ///< between requests
  std::chrono::milliseconds header_timeout{10'000};  ///< from the first byte to the blank line
  std::chrono::milliseconds body_timeout{120'000};   ///< for a whole body, in each direction
  std::chrono::milliseconds stop_timeout{5'000};     ///< time for requests under way to finish
};

/// Serves a repository directory over HTTP/1.1 (docs/formats/http.md), on threads of its own from start_server() until
/// stop() or destruction.
class Server {
 public:
  virtual ~Server() = default;
  virtual std::uint16_t port() const noexcept = 0;
  virtual const std::string& url() const noexcept = 0;  ///< "http://127.0.0.1:PORT"
  /// Ends idle connections at once and others after their current answer, and waits for that. May be called again.
  virtual void stop() noexcept = 0;
};

/// Throws Error{kUsage} for an address that is not loopback, {kNotFound} when the root does not exist, {kIo} when the
/// port is not available. Raises the process's soft limit of open files to the hard limit.
std::unique_ptr<Server> start_server(const ServerOptions& options);

}  // namespace isr
