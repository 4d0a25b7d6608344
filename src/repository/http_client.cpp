// Each pooled connection is a curl easy handle inside a multi handle of its own. The multi handle keeps the TCP
// connection between requests, and its poll can be woken, so a cancelled request ends at once. The pool is a stack, so
// an occasional request reuses one of few warm connections.
#include "repository/http_client.h"

#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdlib>

#include "base/sync.h"
#include "repository/curl_handle.h"
#include "repository/http_exchange.h"
#include "repository/http_message.h"

namespace isr {
namespace {

using Clock = std::chrono::steady_clock;
using Refusal = HttpExchange::Refusal;

void init_curl_once() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code != CURLE_OK) throw Error(ErrorKind::kFailed, fmt::format("curl: {}", curl_easy_strerror(code)));
}

/// A kept connection: easy stays outside multi between requests.
struct Connection {
  std::vector<curl_socket_t> sockets;  ///< open sockets; declared first, because multi closes them when it is destroyed
  CurlMulti multi{curl_multi_init()};
  CurlEasy easy{curl_easy_init()};
  /// A member, because curl may write to it as long as easy lives.
  std::array<char, CURL_ERROR_SIZE> reason{};
};
using ConnectionPtr = std::unique_ptr<Connection>;

curl_socket_t open_socket(void* user, curlsocktype, curl_sockaddr* address) {
  auto& sockets = static_cast<Connection*>(user)->sockets;
  const int fd = ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  if (fd < 0) return CURL_SOCKET_BAD;
  try {
    sockets.push_back(fd);
  } catch (const std::bad_alloc&) {
    ::close(fd);
    return CURL_SOCKET_BAD;
  }
  return fd;
}

int close_socket(void* user, curl_socket_t socket) {
  std::erase(static_cast<Connection*>(user)->sockets, socket);
  return ::close(socket);
}

/// Bytes sent on this connection that the other end has acknowledged. curl's own count is too high: on a slow line data
/// waits in the kernel for minutes.
std::uint64_t acknowledged(const Connection& connection) {
  std::uint64_t total = 0;
  for (const curl_socket_t socket : connection.sockets) {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) == 0) total += info.tcpi_bytes_acked;
  }
  return total;
}

/// The easy handle is in the multi handle only during one request.
class Attached {
 public:
  explicit Attached(Connection& connection) : connection_(connection) {
    check_multi(curl_multi_add_handle(connection_.multi.get(), connection_.easy.get()));
  }
  ~Attached() { curl_multi_remove_handle(connection_.multi.get(), connection_.easy.get()); }
  Attached(const Attached&) = delete;
  Attached& operator=(const Attached&) = delete;

 private:
  Connection& connection_;
};

class CurlClient final : public HttpClient {
 public:
  CurlClient(std::string base_url, bool loopback, std::string ca_file, const HttpOptions& options)
      : base_url_(std::move(base_url)), loopback_(loopback), ca_file_(std::move(ca_file)), options_(options) {}

  HttpResponse perform(const HttpRequest& request, std::stop_token stop) override;

 private:
  struct Pool {
    std::vector<ConnectionPtr> idle;
    unsigned busy = 0;
  };
  class Lease;

  ConnectionPtr acquire(const std::stop_token& stop);
  void release(ConnectionPtr connection) noexcept;
  void prepare(Connection& connection, HttpExchange& exchange, curl_slist* headers) const;
  void run(Connection& connection, const HttpExchange& exchange, const std::stop_token& stop) const;
  [[noreturn]] void fail(CURLcode code, const HttpExchange& exchange, const Connection& connection) const;
  std::string name_of(const HttpRequest& request) const { return base_url_ + request.target; }

  const std::string base_url_;
  const bool loopback_;
  const std::string ca_file_;  ///< empty: the system's
  const HttpOptions options_;
  Sync<Pool> pool_;
  std::condition_variable freed_;
};

class CurlClient::Lease {
 public:
  Lease(CurlClient& client, const std::stop_token& stop) : client_(client), connection_(client.acquire(stop)) {}
  ~Lease() { client_.release(std::move(connection_)); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Connection& operator*() { return *connection_; }

 private:
  CurlClient& client_;
  ConnectionPtr connection_;
};

ConnectionPtr CurlClient::acquire(const std::stop_token& stop) {
  const std::stop_callback wake(stop, [this] {
    const auto held = pool_.lock();  // the notification must not fall between the test and the wait below
    freed_.notify_all();
  });
  auto pool = pool_.lock();
  pool.wait(freed_, [&] { return stop.stop_requested() || pool->busy < options_.max_connections; });
  if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, fmt::format("{}: cancelled", base_url_));
  ConnectionPtr connection;
  if (pool->idle.empty()) {
    connection = std::make_unique<Connection>();
    if (!connection->multi || !connection->easy) throw Error(ErrorKind::kFailed, "curl: out of memory");
  } else {
    connection = std::move(pool->idle.back());
    pool->idle.pop_back();
  }
  ++pool->busy;
  return connection;
}

void CurlClient::release(ConnectionPtr connection) noexcept {
  auto pool = pool_.lock();
  --pool->busy;
  pool->idle.push_back(std::move(connection));
  freed_.notify_one();
}

void CurlClient::prepare(Connection& connection, HttpExchange& exchange, curl_slist* headers) const {
  CURL* easy = connection.easy.get();
  connection.reason.fill('\0');
  curl_easy_reset(easy);  // keeps connections, sessions and the DNS cache
  const HttpRequest& request = exchange.request;
  set_option(easy, CURLOPT_URL, name_of(request).c_str());
  set_option(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  set_option(easy, CURLOPT_FOLLOWLOCATION, 0L);
  set_option(easy, CURLOPT_PATH_AS_IS, 1L);
  set_option(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set_option(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  set_option(easy, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  set_option(easy, CURLOPT_NOSIGNAL, 1L);
  set_option(easy, CURLOPT_QUICK_EXIT, 1L);  // a cancelled request does not wait for getaddrinfo()
  set_option(easy, CURLOPT_TCP_NODELAY, 1L);
  set_option(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.connect_timeout.count()));
  set_option(easy, CURLOPT_BUFFERSIZE, 256L << 10);
  set_option(easy, CURLOPT_ERRORBUFFER, connection.reason.data());
  set_option(easy, CURLOPT_USERAGENT, "isr");
  set_option(easy, CURLOPT_HTTPHEADER, headers);
  if (loopback_) set_option(easy, CURLOPT_PROXY, "");
  if (!ca_file_.empty()) set_option(easy, CURLOPT_CAINFO, ca_file_.c_str());
  set_option(easy, CURLOPT_OPENSOCKETFUNCTION, &open_socket);
  set_option(easy, CURLOPT_OPENSOCKETDATA, static_cast<void*>(&connection));
  set_option(easy, CURLOPT_CLOSESOCKETFUNCTION, &close_socket);
  set_option(easy, CURLOPT_CLOSESOCKETDATA, static_cast<void*>(&connection));
  set_exchange(easy, exchange);
}

bool has_connected(CURL* easy) {
  curl_off_t microseconds = 0;
  curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &microseconds);
  return microseconds > 0;
}

std::chrono::milliseconds longest(const HttpRequest& request, const HttpOptions& options) {
  const std::uint64_t bytes = std::max(request.body.size(), request.large_body_bytes);
  return options.stall_timeout + std::chrono::milliseconds(bytes * 1000 / kSlowestAverage);
}

constexpr std::uint64_t kSteadyBytesPerSecond = 8000;  // an answer this fast has no time limit

/// Says until when a transfer may continue.
class Patience {
 public:
  Patience(const HttpRequest& request, const HttpOptions& options)
      : step_(kSlowestBytesPerSecond * static_cast<std::uint64_t>(options.stall_timeout.count()) / 1000),
        stall_timeout_(options.stall_timeout),
        longest_(longest(request, options)),
        deadline_(Clock::now() + options.connect_timeout + options.stall_timeout),
        end_(Clock::time_point::max()) {}

  void connected() {
    deadline_ = Clock::now() + stall_timeout_;
    end_ = Clock::now() + longest_;
  }
  void moved(std::uint64_t bytes) {
    if (bytes < counted_ || end_ == Clock::time_point::max()) counted_ = bytes;
    const std::uint64_t earned_ms = (bytes - counted_) * 1000 / kSteadyBytesPerSecond;
    end_ += std::chrono::milliseconds(earned_ms);
    counted_ += earned_ms * kSteadyBytesPerSecond / 1000;
    if (bytes >= mark_ && bytes - mark_ < step_) return;  // less than the mark: a new connection
    mark_ = bytes;
    deadline_ = Clock::now() + stall_timeout_;
  }
  std::chrono::milliseconds left() const {
    return std::chrono::ceil<std::chrono::milliseconds>(std::min(deadline_, end_) - Clock::now());
  }
  std::string reason() const {
    if (end_ < deadline_) return fmt::format("no whole answer within {} s", longest_.count() / 1000);
    return fmt::format("no answer, or a much too slow one, for {} s", stall_timeout_.count() / 1000);
  }

 private:
  const std::uint64_t step_;  ///< bytes that count as progress
  const std::chrono::milliseconds stall_timeout_;
  const std::chrono::milliseconds longest_;
  Clock::time_point deadline_;
  Clock::time_point end_;
  std::uint64_t mark_ = 0;
  std::uint64_t counted_ = 0;  ///< bytes that end_ was moved for
};

/// Drives the transfer until curl is done, stop is requested or it takes too long.
void CurlClient::run(Connection& connection, const HttpExchange& exchange, const std::stop_token& stop) const {
  CURLM* multi = connection.multi.get();
  const std::stop_callback wake(stop, [multi] { curl_multi_wakeup(multi); });
  Patience patience(exchange.request, options_);
  for (bool connected = false;;) {
    int running = 0;
    check_multi(curl_multi_perform(multi, &running));
    if (running == 0) return;
    if (stop.stop_requested()) {
      throw Error(ErrorKind::kCancelled, fmt::format("{}: cancelled", name_of(exchange.request)));
    }
    if (!connected && has_connected(connection.easy.get())) {
      connected = true;
      patience.connected();
    }
    patience.moved(exchange.moved + acknowledged(connection));
    const std::int64_t left = patience.left().count();
    if (left <= 0) {
      throw Error(ErrorKind::kTransient, fmt::format("{}: {}", name_of(exchange.request), patience.reason()));
    }
    check_multi(curl_multi_poll(multi, nullptr, 0, static_cast<int>(std::min<std::int64_t>(left, 1000)), nullptr));
  }
}

CURLcode result_of(const Connection& connection) {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(connection.multi.get(), &left)) {
    if (message->msg == CURLMSG_DONE) return message->data.result;
  }
  throw Error(ErrorKind::kBug, "curl: a transfer ended without a result");
}

bool is_tls_refusal(CURLcode code, CURL* easy) {
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_INVALIDCERTSTATUS:
      return true;
    case CURLE_SSL_CONNECT_ERROR: {  // TLS refused it, or the connection broke meanwhile
      long os_errno = 0;
      curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_errno);
      return os_errno == 0;
    }
    default:
      return false;
  }
}

void CurlClient::fail(CURLcode code, const HttpExchange& exchange, const Connection& connection) const {
  const std::string name = name_of(exchange.request);
  switch (exchange.refusal) {
    case Refusal::kBodyTooLarge:
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("{}: the answer is larger than {} bytes", name, exchange.request.max_response_bytes));
    case Refusal::kHeadersTooLarge:
      throw Error(ErrorKind::kTransient, fmt::format("{}: the headers of the answer do not end", name));
    case Refusal::kOutOfMemory:
      throw Error(ErrorKind::kFailed, fmt::format("{}: out of memory", name));
    case Refusal::kNone:
      break;
  }
  const std::string why =
      printable_excerpt(connection.reason[0] != '\0' ? connection.reason.data() : curl_easy_strerror(code));
  if (is_tls_refusal(code, connection.easy.get())) {
    throw Error(ErrorKind::kOffline,
                fmt::format("{}: the server's TLS certificate or protocol was refused: {}", name, why),
                {"a certificate authority of your own: add it to the system's, or name its file in SSL_CERT_FILE"});
  }
  // All other codes come from the network, a peer on it, or the proxy in the environment.
  throw Error(ErrorKind::kTransient, fmt::format("{}: {}", name, why));
}

HttpResponse CurlClient::perform(const HttpRequest& request, std::stop_token stop) {
  CurlList headers;
  const auto add_header = [&](const char* line) {
    curl_slist* longer = curl_slist_append(headers.get(), line);
    if (longer == nullptr) throw Error(ErrorKind::kFailed, "curl: out of memory");
    (void)headers.release();  // it is now the head of the longer list
    headers.reset(longer);
  };
  add_header("Expect:");  // else curl waits a second for a "100 Continue" that some never send
  for (const std::string& line : request.headers) add_header(line.c_str());

  HttpExchange exchange{.request = request, .response = {}};
  Lease lease(*this, stop);
  Connection& connection = *lease;
  prepare(connection, exchange, headers.get());
  CURLcode code = CURLE_OK;
  long status = 0;
  {
    const Attached attached(connection);
    run(connection, exchange, stop);
    code = result_of(connection);
    if (code != CURLE_OK) fail(code, exchange, connection);
    if (!exchange.headers_ended) {
      throw Error(ErrorKind::kTransient, name_of(request) + ": the connection was closed within the headers");
    }
    curl_easy_getinfo(connection.easy.get(), CURLINFO_RESPONSE_CODE, &status);
  }
  exchange.response.status = static_cast<int>(status);
  return std::move(exchange.response);
}

bool is_loopback(std::string_view host) { return host == "localhost" || host.starts_with("127.") || host == "[::1]"; }

std::string url_part(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, 0) != CURLUE_OK) return {};
  const std::unique_ptr<char, FreeWith<curl_free>> owner(text);
  return text;
}

}  // namespace

std::unique_ptr<HttpClient> make_http_client(const std::string& base_url, const HttpOptions& options) {
  init_curl_once();
  const CurlUrl url(curl_url());
  if (!url || curl_url_set(url.get(), CURLUPART_URL, base_url.c_str(), CURLU_DISALLOW_USER) != CURLUE_OK) {
    // Not repeated, because it may hold a password.
    throw Error(ErrorKind::kUsage, "the repository's address is not a valid URL, or holds user information");
  }
  const std::string scheme = url_part(url.get(), CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") {
    throw Error(ErrorKind::kUsage, fmt::format("{}:// is not http:// or https://", printable_excerpt(scheme)));
  }
  // As in curl, git and OpenSSL's own programs. libcurl does not look at it by itself.
  const char* ca_file = std::getenv("SSL_CERT_FILE");
  return std::make_unique<CurlClient>(base_url, is_loopback(url_part(url.get(), CURLUPART_HOST)),
                                      ca_file != nullptr ? ca_file : "", options);
}

}  // namespace isr
