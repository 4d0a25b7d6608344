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
  std::uint16_t port = 0;             ///< 0: any free one
  std::filesystem::path port_file;    ///< when set: gets "PORT\n" once the server listens
  bool read_only = false;
  bool allow_delete = false;  ///< DELETE is answered 403 otherwise
  /// Further names in the Host header that are ours, e.g. behind a TLS proxy.
  std::vector<std::string> host_names;

  unsigned disk_threads = 16;
  /// Above, the connection that has waited longest without a request is closed.
  unsigned max_connections = 4096;
  std::chrono::milliseconds idle_timeout{75'000};    ///< between requests
  std::chrono::milliseconds header_timeout{10'000};  ///< from the first byte to the blank line
  std::chrono::milliseconds body_timeout{120'000};   ///< for a whole body, in and out each
  std::chrono::milliseconds stop_timeout{5'000};     ///< what requests under way get to end
};

/// A repository directory served over HTTP/1.1 (docs/formats/http.md), on
/// threads of its own from start_server() until stop() or destruction.
class Server {
 public:
  virtual ~Server() = default;
  virtual std::uint16_t port() const noexcept = 0;
  virtual const std::string& url() const noexcept = 0;  ///< "http://127.0.0.1:PORT"
  /// Ends idle connections at once and others after the answer under way, waits
  /// for that. May be called again.
  virtual void stop() noexcept = 0;
};

/// Throws Error{kUsage} for an address that is not loopback, {kNotFound} when
/// there is no root, {kIo} when the port cannot be had. Raises the process's
/// soft limit of open files to the hard one.
std::unique_ptr<Server> start_server(const ServerOptions& options);

}  // namespace isr
