#pragma once

#include <chrono>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace isr {

struct HttpOptions {
  std::chrono::milliseconds connect_timeout{10'000};
  /// A request that moves less than kSlowestBytesPerSecond over this time is given up, because a server that sends very
  /// slowly is as bad as one that does not answer. From the start of its connection, a request may take this time, plus
  /// a second for each kSlowestAverage bytes of its large body.
  std::chrono::milliseconds stall_timeout{30'000};
  unsigned max_connections = 64;  ///< further requests wait for one
};
inline constexpr std::uint64_t kSlowestBytesPerSecond = 256;
inline constexpr std::uint64_t kSlowestAverage = 1024;  ///< bytes per second

enum class HttpMethod { kGet, kHead, kPut, kDelete };

struct HttpRequest {
  HttpMethod method = HttpMethod::kGet;
  std::string target;                ///< appended to the base URL as it is: "/objects/ab/…"
  std::vector<std::string> headers;  ///< "Name: value"
  ByteView body;                     ///< of a PUT; borrowed until perform() returns
  std::size_t max_response_bytes = 0;
  /// The size limit in bytes of a body that may be large, in either direction; 0 when bodies are small, so that a
  /// server cannot hold the caller for long with an answer that comes byte by byte. The size of a body that is sent is
  /// added by itself.
  std::size_t large_body_bytes = 0;
};

struct HttpResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  Bytes body;

  /// Trimmed; empty when absent. `name` must be lower case.
  std::string_view header(std::string_view name) const noexcept;
};

/// One HTTP(S) origin.
///
/// Shape:   one request, one whole answer in memory, whatever its status. A redirect is returned like any other answer,
///          not followed. Connections are kept.
/// Errors:  kTransient when no whole answer came (name, connection, time-out, reset, short body, proxy); kOffline when
///          TLS does not verify; kCorrupt when the body is larger than max_response_bytes; kCancelled.
/// Threads: perform() may run on many threads at once.
class HttpClient {
 public:
  virtual ~HttpClient() = default;
  virtual HttpResponse perform(const HttpRequest& request, std::stop_token stop = {}) = 0;
};

/// base_url has no trailing slash; Error{kUsage} unless it is http:// or
/// https:// without user information. A proxy named by the environment is used
/// as curl does (http_proxy, https_proxy, no_proxy), but never for loopback.
/// SSL_CERT_FILE in the environment replaces the system's authorities.
std::unique_ptr<HttpClient> make_http_client(const std::string& base_url, const HttpOptions& options = {});

/// Throws the error for an answer that the caller did not expect. `what` names the request. 408, 425, 429 and 5xx are
/// kTransient (a RetryLater when the server names a pause), 401 and 403 kDenied, 507 kIo, redirects and methods that
/// the server does not support kUnsupported, the rest kFailed.
[[noreturn]] void throw_for_status(const HttpResponse& response, const std::string& what);

}  // namespace isr
