// Each pooled connection is a curl easy handle inside a multi handle of its own:
// the multi handle keeps the TCP connection between requests, and its poll can
// be woken, so a cancelled request ends at once. The pool is a stack, thus few
// warm connections serve a slow trickle of requests.
//
// curl repeats a request by itself when a kept connection turns out to be dead.
// For a PUT that may already have been applied this would turn "created" into
// "exists", so its body cannot be rewound: curl then gives up, and the caller
// settles what happened by looking.
#include "repository/http_client.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <condition_variable>
#include <cstdlib>

#include "base/handle.h"
#include "base/sync.h"
#include "repository/http_message.h"

namespace isr {
namespace {

using Clock = std::chrono::steady_clock;
using CurlEasy = std::unique_ptr<CURL, FreeWith<curl_easy_cleanup>>;
using CurlMulti = std::unique_ptr<CURLM, FreeWith<curl_multi_cleanup>>;
using CurlList = std::unique_ptr<curl_slist, FreeWith<curl_slist_free_all>>;
using CurlUrl = std::unique_ptr<CURLU, FreeWith<curl_url_cleanup>>;

constexpr std::size_t kMaxHeaderBytes = 64U << 10U;

template <class Value>
void set(CURL* easy, CURLoption option, Value value) {
  const CURLcode code = curl_easy_setopt(easy, option, value);
  if (code != CURLE_OK)
    throw Error(ErrorKind::kBug,
                fmt::format("curl: option {}: {}", static_cast<int>(option), curl_easy_strerror(code)));
}

void check(CURLMcode code) {
  if (code != CURLM_OK) throw Error(ErrorKind::kBug, fmt::format("curl: {}", curl_multi_strerror(code)));
}

void init_curl_once() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code != CURLE_OK) throw Error(ErrorKind::kFailed, fmt::format("curl: {}", curl_easy_strerror(code)));
}

enum class Refusal { kNone, kBodyTooLarge, kHeadersTooLarge, kOutOfMemory };

/// One request under way: what the callbacks of curl read and write.
struct Exchange {
  const HttpRequest& request;
  HttpResponse response;
  std::size_t sent = 0;
  std::size_t header_bytes = 0;
  std::uint64_t moved = 0;  ///< bytes from and to curl
  /// The blank line came. curl 7.88 calls a connection that was closed within
  /// the headers a success with an empty body.
  bool headers_ended = false;
  Refusal refusal = Refusal::kNone;
};

/// Runs a callback's body: no exception may pass through curl.
template <class Body>
std::size_t guarded(Exchange& exchange, Body body) noexcept {
  try {
    return body();
  } catch (...) {
    exchange.refusal = Refusal::kOutOfMemory;
    return 0;
  }
}

std::size_t take_body(const char* data, std::size_t, std::size_t count, void* user) {
  Exchange& exchange = *static_cast<Exchange*>(user);
  return guarded(exchange, [&]() -> std::size_t {
    Bytes& body = exchange.response.body;
    if (count > exchange.request.max_response_bytes - body.size()) {
      exchange.refusal = Refusal::kBodyTooLarge;
      return 0;
    }
    body.insert(body.end(), data, data + count);
    exchange.moved += count;
    return count;
  });
}

/// Room for the body that the headers promise, so that it does not grow piece by piece.
void reserve_body(Exchange& exchange) {
  const std::string_view text = exchange.response.header("content-length");
  std::size_t length = 0;
  std::from_chars(text.data(), text.data() + text.size(), length);
  exchange.response.body.reserve(std::min(length, exchange.request.max_response_bytes));
}

std::size_t take_header(const char* data, std::size_t, std::size_t count, void* user) {
  Exchange& exchange = *static_cast<Exchange*>(user);
  return guarded(exchange, [&]() -> std::size_t {
    exchange.header_bytes += count;
    exchange.moved += count;
    if (exchange.header_bytes > kMaxHeaderBytes) {
      exchange.refusal = Refusal::kHeadersTooLarge;
      return 0;
    }
    const std::string_view line(data, count);
    if (line.starts_with("HTTP/")) {  // the first one, or that after "100 Continue"
      exchange.response.headers.clear();
      exchange.headers_ended = false;
    }
    if (line == "\r\n" || line == "\n") {
      exchange.headers_ended = true;
      reserve_body(exchange);
    }
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) return count;
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return (c >= 'A' && c <= 'Z') ? static_cast<char>(c + ('a' - 'A')) : c; });
    exchange.response.headers.emplace_back(std::move(name), without_blanks(line.substr(colon + 1)));
    return count;
  });
}

std::size_t give_body(char* out, std::size_t, std::size_t room, void* user) {
  Exchange& exchange = *static_cast<Exchange*>(user);
  const ByteView body = exchange.request.body;
  const std::size_t count = std::min(room, body.size() - exchange.sent);
  std::copy_n(body.begin() + static_cast<std::ptrdiff_t>(exchange.sent), count, out);
  exchange.sent += count;
  exchange.moved += count;
  return count;
}

int refuse_rewind(void*, curl_off_t, int) { return CURL_SEEKFUNC_FAIL; }

/// A kept connection: easy stays outside multi between requests.
struct Connection {
  std::vector<curl_socket_t> sockets;  ///< open ones; first, since multi closes them when it goes
  CurlMulti multi{curl_multi_init()};
  CurlEasy easy{curl_easy_init()};
  /// Here, since curl may write to it as long as easy lives.
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

/// Bytes that the other end has of all that went out on this connection. What curl
/// took from us says less: on a slow line it waits in the kernel for minutes.
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
    check(curl_multi_add_handle(connection_.multi.get(), connection_.easy.get()));
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
  void prepare(Connection& connection, Exchange& exchange, curl_slist* headers) const;
  void run(Connection& connection, const Exchange& exchange, const std::stop_token& stop) const;
  [[noreturn]] void fail(CURLcode code, const Exchange& exchange, const Connection& connection) const;
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
    const auto held = pool_.lock();  // not between the test and the wait below
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

void CurlClient::prepare(Connection& connection, Exchange& exchange, curl_slist* headers) const {
  CURL* easy = connection.easy.get();
  connection.reason.fill('\0');
  curl_easy_reset(easy);  // keeps connections, sessions and the DNS cache
  const HttpRequest& request = exchange.request;
  set(easy, CURLOPT_URL, name_of(request).c_str());
  set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  set(easy, CURLOPT_FOLLOWLOCATION, 0L);
  set(easy, CURLOPT_PATH_AS_IS, 1L);
  set(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  set(easy, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  set(easy, CURLOPT_NOSIGNAL, 1L);
  set(easy, CURLOPT_QUICK_EXIT, 1L);  // a cancelled request does not wait for getaddrinfo()
  set(easy, CURLOPT_TCP_NODELAY, 1L);
  set(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.connect_timeout.count()));
  set(easy, CURLOPT_BUFFERSIZE, 256L << 10);
  set(easy, CURLOPT_ERRORBUFFER, connection.reason.data());
  set(easy, CURLOPT_USERAGENT, "isr");
  set(easy, CURLOPT_HTTPHEADER, headers);
  if (loopback_) set(easy, CURLOPT_PROXY, "");
  if (!ca_file_.empty()) set(easy, CURLOPT_CAINFO, ca_file_.c_str());
  set(easy, CURLOPT_OPENSOCKETFUNCTION, &open_socket);
  set(easy, CURLOPT_OPENSOCKETDATA, static_cast<void*>(&connection));
  set(easy, CURLOPT_CLOSESOCKETFUNCTION, &close_socket);
  set(easy, CURLOPT_CLOSESOCKETDATA, static_cast<void*>(&connection));
  set(easy, CURLOPT_WRITEFUNCTION, &take_body);
  set(easy, CURLOPT_WRITEDATA, static_cast<void*>(&exchange));
  set(easy, CURLOPT_HEADERFUNCTION, &take_header);
  set(easy, CURLOPT_HEADERDATA, static_cast<void*>(&exchange));
  if (request.method == HttpMethod::kHead) set(easy, CURLOPT_NOBODY, 1L);
  if (request.method == HttpMethod::kDelete) set(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
  if (request.method == HttpMethod::kPut) {
    set(easy, CURLOPT_UPLOAD, 1L);
    set(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    set(easy, CURLOPT_READFUNCTION, &give_body);
    set(easy, CURLOPT_READDATA, static_cast<void*>(&exchange));
    set(easy, CURLOPT_SEEKFUNCTION, &refuse_rewind);
  }
}

bool has_connected(CURL* easy) {
  curl_off_t microseconds = 0;
  curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &microseconds);
  return microseconds > 0;
}

/// Drives the transfer until curl is done, stop is requested or it stalls.
void CurlClient::run(Connection& connection, const Exchange& exchange, const std::stop_token& stop) const {
  CURLM* multi = connection.multi.get();
  const std::stop_callback wake(stop, [multi] { curl_multi_wakeup(multi); });
  const auto patience = options_.stall_timeout;
  const auto progress = kSlowestBytesPerSecond * static_cast<std::uint64_t>(options_.stall_timeout.count()) / 1000;
  auto deadline = Clock::now() + patience + options_.connect_timeout;
  std::uint64_t mark = 0;
  for (bool connected = false;;) {
    int running = 0;
    check(curl_multi_perform(multi, &running));
    if (running == 0) return;
    if (stop.stop_requested()) {
      throw Error(ErrorKind::kCancelled, fmt::format("{}: cancelled", name_of(exchange.request)));
    }
    const auto now = Clock::now();
    if (!connected && has_connected(connection.easy.get())) {
      connected = true;
      deadline = now + patience;
    }
    const std::uint64_t moved = exchange.moved + acknowledged(connection);
    if (moved < mark || moved - mark >= progress) {  // less: another connection than before
      mark = moved;
      deadline = now + patience;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now);
    if (left.count() <= 0) {
      throw Error(ErrorKind::kTransient, fmt::format("{}: no answer, or a much too slow one, for {} s",
                                                     name_of(exchange.request), patience.count() / 1000));
    }
    check(
        curl_multi_poll(multi, nullptr, 0, static_cast<int>(std::min<std::int64_t>(left.count() + 1, 1000)), nullptr));
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
    case CURLE_SSL_CONNECT_ERROR: {  // refused by TLS, or the connection broke meanwhile
      long os_errno = 0;
      curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_errno);
      return os_errno == 0;
    }
    default:
      return false;
  }
}

void CurlClient::fail(CURLcode code, const Exchange& exchange, const Connection& connection) const {
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
  // All else is the network, what speaks on it, or the proxy in the environment.
  throw Error(ErrorKind::kTransient, fmt::format("{}: {}", name, why));
}

HttpResponse CurlClient::perform(const HttpRequest& request, std::stop_token stop) {
  CurlList headers;
  const auto add_header = [&](const char* line) {
    curl_slist* longer = curl_slist_append(headers.get(), line);
    if (longer == nullptr) throw Error(ErrorKind::kFailed, "curl: out of memory");
    (void)headers.release();  // it is the head of the longer list
    headers.reset(longer);
  };
  add_header("Expect:");  // else curl waits a second for a "100 Continue" that some never send
  for (const std::string& line : request.headers) add_header(line.c_str());

  Exchange exchange{.request = request, .response = {}};
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
    // Not repeated: it may hold a password.
    throw Error(ErrorKind::kUsage, "the repository's address is not a valid URL, or holds user information");
  }
  const std::string scheme = url_part(url.get(), CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") {
    throw Error(ErrorKind::kUsage, fmt::format("{}:// is not http:// or https://", printable_excerpt(scheme)));
  }
  // As curl, git and OpenSSL's own programs; libcurl by itself does not look.
  const char* ca_file = std::getenv("SSL_CERT_FILE");
  return std::make_unique<CurlClient>(base_url, is_loopback(url_part(url.get(), CURLUPART_HOST)),
                                      ca_file != nullptr ? ca_file : "", options);
}

}  // namespace isr
