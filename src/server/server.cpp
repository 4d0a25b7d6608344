// One thread does all network I/O, a coroutine for each connection; the disk
// work runs on a pool, so a slow disk stalls no other connection. All state
// below belongs to the network thread. A deadline is a member that one timer
// looks at: on expiry it cancels what the coroutine waits for.
//
//   phase of a connection   deadline         evictable   at stop()
//   waits for a request     idle_timeout     yes         closed
//   reads a header          header_timeout   yes         closed
//   reads a body            body_timeout     no          finishes
//   works on the disk       none             no          finishes
//   writes an answer        body_timeout     no          finishes
#include "server/server.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <list>
#include <thread>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "repository/http_message.h"
#include "server/answer.h"

namespace isr {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using RequestParser = http::request_parser<http::vector_body<std::uint8_t>>;
using Response = http::response<http::vector_body<std::uint8_t>>;

constexpr std::size_t kMaxHeader = 16U << 10U;
constexpr std::size_t kReadStep = 16U << 10U;
constexpr std::size_t kMaxBuffer = 256U << 10U;
constexpr std::chrono::seconds kLingerTimeout{2};
constexpr std::size_t kMaxLinger = 4U << 20U;

/// Open files that are not connections: the disk threads', the log, libraries'.
constexpr std::uint64_t kOtherFiles = 64;

unsigned connections_allowed(const ServerOptions& options) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return options.max_connections;
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);
  }
  const std::uint64_t reserved = kOtherFiles + 2ULL * options.disk_threads;
  const std::uint64_t room = limit.rlim_cur > 2 * reserved ? limit.rlim_cur - reserved : reserved;
  return static_cast<unsigned>(std::min<std::uint64_t>(options.max_connections, room));
}

ServerMethod method_of(http::verb verb) {
  switch (verb) {
    case http::verb::get:
      return ServerMethod::kGet;
    case http::verb::head:
      return ServerMethod::kHead;
    case http::verb::put:
      return ServerMethod::kPut;
    case http::verb::delete_:
      return ServerMethod::kDelete;
    default:
      return ServerMethod::kOther;
  }
}

std::string text_of(boost::string_view text) { return {text.data(), text.size()}; }

ServerRequest request_of(const http::request_header<>& header) {
  ServerRequest request;
  request.method = method_of(header.method());
  request.target = text_of(header.target());
  request.range = text_of(header[http::field::range]);
  request.if_none_match = text_of(header[http::field::if_none_match]);
  request.host = text_of(header[http::field::host]);
  return request;
}

/// Only lengths that no proxy before us can read in another way.
std::optional<ServerAnswer> refuse_framing(const http::request_header<>& header) {
  const auto lengths = header.count(http::field::content_length);
  const auto codings = header.count(http::field::transfer_encoding);
  const auto length = header[http::field::content_length];
  const bool digits = std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (lengths + codings > 1 || !digits) return refusal(400, "the length of the body is not clear");
  if (codings == 1 && !beast::iequals(header[http::field::transfer_encoding], "chunked")) {
    return refusal(501, "of transfer codings only chunked is known here");
  }
  if (header.method() == http::verb::put && lengths + codings == 0) return refusal(411, "PUT needs a Content-Length");
  return std::nullopt;
}

/// What to answer to bytes that are no request of ours.
ServerAnswer answer_to_bad_request(const error_code& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return refusal(431, "the header is too long");
  }
  if (error == http::error::body_limit) return refusal(413, "no blob is so large");
  return refusal(400, "this is no valid HTTP request");
}

/// The parser's own errors, as opposed to those of the connection.
bool is_bad_request(const error_code& error) {
  return error.category() == http::make_error_code(http::error::bad_method).category() &&
         error != http::error::end_of_stream && error != http::error::partial_message;
}

class LoopbackServer;

class Connection {
 public:
  Connection(LoopbackServer& server, tcp::socket socket) : server_(server), socket_(std::move(socket)) {}

  asio::awaitable<void> serve();
  void check_deadline(Clock::time_point now) {
    if (now >= deadline_) {
      timed_out_ = true;
      cancel();
    }
  }
  void cancel() {
    error_code ignored;
    socket_.cancel(ignored);
  }
  void close() {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  friend class LoopbackServer;
  enum class Next { kKeep, kClose, kLinger };

  asio::awaitable<bool> wait_for_request();
  asio::awaitable<Next> serve_one();
  asio::awaitable<Next> refuse_input(const error_code& error);
  asio::awaitable<bool> read_body(RequestParser& parser);
  asio::awaitable<bool> write(ServerAnswer answer, bool is_head, unsigned version, bool keep_alive);
  asio::awaitable<void> linger();
  void set_deadline(std::chrono::milliseconds from_now) {
    timed_out_ = false;
    deadline_ = Clock::now() + from_now;
  }

  LoopbackServer& server_;
  tcp::socket socket_;
  beast::flat_buffer buffer_{kMaxBuffer};
  Clock::time_point deadline_ = Clock::time_point::max();
  bool timed_out_ = false;
  bool waiting_ = false;                    ///< is in the server's waiting list
  std::list<Connection*>::iterator place_;  ///< there; the list of all otherwise unneeded
};

class LoopbackServer final : public Server {
 public:
  LoopbackServer(const ServerOptions& options, tcp::endpoint endpoint);
  ~LoopbackServer() override { stop(); }

  std::uint16_t port() const noexcept override { return port_; }
  const std::string& url() const noexcept override { return url_; }
  void stop() noexcept override;
  void start();

 private:
  friend class Connection;

  asio::awaitable<void> accept_all();
  asio::awaitable<void> run_connection(std::shared_ptr<Connection> connection);
  asio::awaitable<void> watch_deadlines();
  asio::awaitable<ServerAnswer> on_disk_thread(const ServerRequest& request);
  asio::awaitable<void> pause(std::chrono::milliseconds time);
  void begin_waiting(Connection& connection);
  void end_waiting(Connection& connection);
  bool make_room();
  void begin_stop();

  const ServerOptions options_;
  AnswerOptions answers_;
  const BlobStorePtr store_;
  const unsigned max_connections_;
  asio::io_context network_{1};
  asio::thread_pool disk_;
  tcp::acceptor acceptor_{network_};
  std::uint16_t port_ = 0;
  std::string url_;

  std::list<Connection*> connections_;
  std::list<Connection*> waiting_;  ///< longest first
  bool stopping_ = false;
  Clock::time_point stop_deadline_ = Clock::time_point::max();
  std::jthread thread_;
};

// --- Connection ------------------------------------------------------------

auto into(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

asio::awaitable<void> Connection::serve() {
  Next next = Next::kKeep;
  while (next == Next::kKeep && !server_.stopping_) {
    server_.begin_waiting(*this);
    const bool came = co_await wait_for_request();
    if (!came) {
      server_.end_waiting(*this);
      break;
    }
    next = co_await serve_one();
  }
  if (next == Next::kLinger) co_await linger();
}

/// Until the first byte of a request is in the buffer; false: the peer left.
asio::awaitable<bool> Connection::wait_for_request() {
  if (buffer_.size() != 0) co_return true;  // pipelined
  set_deadline(server_.options_.idle_timeout);
  error_code error;
  const std::size_t count = co_await socket_.async_read_some(buffer_.prepare(kReadStep), into(error));
  if (error) co_return false;
  buffer_.commit(count);
  co_return true;
}

/// After 400, 408, 413 or 431 nobody knows where the next request would begin.
asio::awaitable<Connection::Next> Connection::refuse_input(const error_code& error) {
  if (timed_out_) {
    co_await write(refusal(408, "the request took too long"), false, 11, false);
    co_return Next::kLinger;
  }
  if (!is_bad_request(error)) co_return Next::kClose;
  co_await write(answer_to_bad_request(error), false, 11, false);
  co_return Next::kLinger;
}

asio::awaitable<bool> Connection::read_body(RequestParser& parser) {
  if (parser.is_done()) co_return true;
  set_deadline(server_.options_.body_timeout);
  error_code error;
  if (beast::iequals(parser.get()[http::field::expect], "100-continue") && buffer_.size() == 0) {
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    co_await asio::async_write(socket_, asio::buffer(kContinue.data(), kContinue.size()), into(error));
  }
  if (!error) co_await http::async_read(socket_, buffer_, parser, into(error));
  if (!error) co_return true;
  co_await refuse_input(error);
  co_return false;
}

asio::awaitable<Connection::Next> Connection::serve_one() {
  RequestParser parser;
  parser.header_limit(kMaxHeader);
  parser.body_limit(kMaxBlobSize);
  set_deadline(server_.options_.header_timeout);
  error_code error;
  co_await http::async_read_header(socket_, buffer_, parser, into(error));
  server_.end_waiting(*this);
  if (error) co_return co_await refuse_input(error);

  ServerRequest request = request_of(parser.get());
  const unsigned version = parser.get().version();
  const bool is_head = request.method == ServerMethod::kHead;
  auto refused = refuse_framing(parser.get());
  const bool framed = !refused.has_value();
  if (framed) refused = refuse_early(request, server_.answers_);
  if (refused) {
    const bool whole = framed && parser.is_done();
    const bool keep = whole && parser.get().keep_alive() && !server_.stopping_;
    const bool written = co_await write(std::move(*refused), is_head, version, keep);
    if (!written) co_return Next::kClose;
    co_return keep ? Next::kKeep : Next::kLinger;
  }
  const bool whole = co_await read_body(parser);
  if (!whole) co_return Next::kLinger;
  request.body = std::move(parser.get().body());
  const bool keep = parser.get().keep_alive();

  deadline_ = Clock::time_point::max();
  ServerAnswer answer = co_await server_.on_disk_thread(request);
  const bool kept = keep && !server_.stopping_;
  const bool written = co_await write(std::move(answer), is_head, version, kept);
  if (!written) co_return Next::kClose;
  co_return kept ? Next::kKeep : Next::kLinger;
}

asio::awaitable<bool> Connection::write(ServerAnswer answer, bool is_head, unsigned version, bool keep_alive) {
  Response response(static_cast<http::status>(answer.status), version);
  response.set(http::field::date, to_http_date(wall_now()));
  response.set("Isr-Repository", server_.answers_.read_only ? "read-only" : "writable");
  for (const auto& [name, value] : answer.headers) response.set(name, value);
  response.keep_alive(keep_alive);
  if (answer.status != 204) response.content_length(answer.head_length.value_or(answer.body.size()));
  if (!is_head) response.body() = std::move(answer.body);
  set_deadline(server_.options_.body_timeout);
  error_code error;
  co_await http::async_write(socket_, response, into(error));
  co_return !error;
}

/// Closing with unread bytes would reset the connection and may destroy the
/// answer on its way: end our side, read on until the peer ends its own.
asio::awaitable<void> Connection::linger() {
  error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  set_deadline(kLingerTimeout);
  buffer_.clear();
  for (std::size_t read = 0; !error && !timed_out_ && read < kMaxLinger;) {
    read += co_await socket_.async_read_some(buffer_.prepare(kReadStep), into(error));
  }
}

// --- LoopbackServer --------------------------------------------------------

[[noreturn]] void cannot_listen(const tcp::endpoint& endpoint, const error_code& error) {
  throw Error(ErrorKind::kIo, fmt::format("cannot listen on {} port {}: {}", endpoint.address().to_string(),
                                          endpoint.port(), error.message()));
}

LoopbackServer::LoopbackServer(const ServerOptions& options, tcp::endpoint endpoint)
    : options_(options),
      store_(make_directory_store(options.root.string())),
      max_connections_(connections_allowed(options)),
      disk_(std::max(1U, options.disk_threads)) {
  answers_.read_only = options.read_only || !store_->writable();
  answers_.allow_delete = options.allow_delete;
  answers_.host_names = options.host_names;
  error_code error;
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) cannot_listen(endpoint, error);
  port_ = acceptor_.local_endpoint().port();
  const bool v6 = endpoint.address().is_v6();
  url_ = fmt::format("http://{}{}{}:{}", v6 ? "[" : "", endpoint.address().to_string(), v6 ? "]" : "", port_);
}

void LoopbackServer::start() {
  asio::co_spawn(network_, accept_all(), asio::detached);
  asio::co_spawn(network_, watch_deadlines(), asio::detached);
  thread_ = std::jthread([this] {
    try {
      network_.run();
    } catch (const std::exception& error) {
      log::error("the server stopped: {}", error.what());
    }
  });
}

void LoopbackServer::stop() noexcept {
  if (!thread_.joinable()) return;
  asio::post(network_, [this] { begin_stop(); });
  thread_.join();
  disk_.join();
}

void LoopbackServer::begin_stop() {
  stopping_ = true;
  stop_deadline_ = Clock::now() + options_.stop_timeout;
  error_code ignored;
  acceptor_.close(ignored);
  for (Connection* connection : waiting_) connection->close();
}

asio::awaitable<void> LoopbackServer::pause(std::chrono::milliseconds time) {
  asio::steady_timer timer(network_, time);
  error_code ignored;
  co_await timer.async_wait(into(ignored));
}

/// Ends the connection that has waited longest when there are too many; false
/// when all are at work.
bool LoopbackServer::make_room() {
  if (connections_.size() < max_connections_) return true;
  if (waiting_.empty()) return false;
  Connection& oldest = *waiting_.front();
  end_waiting(oldest);
  oldest.close();
  return true;
}

asio::awaitable<void> LoopbackServer::accept_all() {
  constexpr std::chrono::milliseconds kPause{20};
  while (!stopping_) {
    if (!make_room()) {
      co_await pause(kPause);
      continue;
    }
    error_code error;
    tcp::socket socket = co_await acceptor_.async_accept(into(error));
    if (stopping_) break;
    if (error) {
      // Out of files or memory: what is open goes on, the rest waits in the kernel's queue.
      if (error != asio::error::connection_aborted) {
        log::warn("accepting a connection: {}", error.message());
        co_await pause(kPause);
      }
      continue;
    }
    socket.set_option(tcp::no_delay(true), error);
    auto connection = std::make_shared<Connection>(*this, std::move(socket));
    asio::co_spawn(network_, run_connection(std::move(connection)), asio::detached);
  }
}

asio::awaitable<void> LoopbackServer::run_connection(std::shared_ptr<Connection> connection) {
  const auto place = connections_.insert(connections_.end(), connection.get());
  try {
    co_await connection->serve();
  } catch (const std::exception& error) {
    log::warn("a connection failed: {}", error.what());
  }
  end_waiting(*connection);
  connections_.erase(place);
}

/// Lives as long as any connection does, thus keeps network_.run() going.
asio::awaitable<void> LoopbackServer::watch_deadlines() {
  const auto shortest = std::min({options_.idle_timeout, options_.header_timeout, options_.body_timeout});
  const auto interval = std::clamp(shortest / 4, std::chrono::milliseconds(5), std::chrono::milliseconds(100));
  while (!stopping_ || !connections_.empty()) {
    co_await pause(interval);
    const auto now = Clock::now();
    for (Connection* connection : connections_) {
      connection->check_deadline(now);
      if (now >= stop_deadline_) connection->close();
    }
  }
}

asio::awaitable<ServerAnswer> LoopbackServer::on_disk_thread(const ServerRequest& request) {
  auto work = [](const ServerRequest& r, BlobStore& store,
                 const AnswerOptions& options) -> asio::awaitable<ServerAnswer> {
    co_return answer(r, store, options);
  };
  co_return co_await asio::co_spawn(disk_, work(request, *store_, answers_), asio::use_awaitable);
}

void LoopbackServer::begin_waiting(Connection& connection) {
  connection.place_ = waiting_.insert(waiting_.end(), &connection);
  connection.waiting_ = true;
}

void LoopbackServer::end_waiting(Connection& connection) {
  if (!connection.waiting_) return;
  waiting_.erase(connection.place_);
  connection.waiting_ = false;
}

tcp::endpoint loopback_endpoint(const ServerOptions& options) {
  error_code error;
  const auto address = asio::ip::make_address(options.address == "localhost" ? "127.0.0.1" : options.address, error);
  if (error) throw Error(ErrorKind::kUsage, fmt::format("{} is no IP address", options.address));
  if (!address.is_loopback()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} is not a loopback address: isr serve has no access control yet, so whoever can reach "
                            "it could read, fill and block the repository",
                            options.address),
                {"listen on 127.0.0.1 or ::1, and let others in through ssh -L or a web server that asks for a login"});
  }
  return {address, options.port};
}

}  // namespace

std::unique_ptr<Server> start_server(const ServerOptions& options) {
  const tcp::endpoint endpoint = loopback_endpoint(options);
  if (!std::filesystem::is_directory(options.root)) {
    throw Error(ErrorKind::kNotFound, fmt::format("{}: there is no such directory", options.root.string()));
  }
  auto server = std::make_unique<LoopbackServer>(options, endpoint);
  server->start();
  if (!options.port_file.empty()) {
    replace_file(options.port_file, as_bytes(fmt::format("{}\n", server->port())), 0644);
  }
  return server;
}

}  // namespace isr
