// One thread does all network I/O, with a coroutine for each connection. The disk work runs on a pool, so a slow disk
// does not stall other connections. All state below belongs to the network thread.
#include "server/server.h"

#include <fmt/format.h>

#include <boost/asio.hpp>
#include <list>
#include <map>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "base/open_files.h"
#include "base/whole_file.h"
#include "server/answer.h"
#include "server/connection.h"

namespace isr {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

/// Open files other than connections: of the disk threads, the log and libraries.
constexpr std::uint64_t kOtherFiles = 64;

unsigned connections_allowed(const ServerOptions& options) {
  const std::uint64_t limit = raise_open_file_limit();
  const std::uint64_t reserved = kOtherFiles + 2ULL * options.disk_threads;
  const std::uint64_t room = limit > 2 * reserved ? limit - reserved : reserved;
  return static_cast<unsigned>(std::min<std::uint64_t>(options.max_connections, room));
}

auto into(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

class LoopbackServer final : public Server, public ConnectionOwner {
 public:
  LoopbackServer(const ServerOptions& options, tcp::endpoint endpoint);
  ~LoopbackServer() override { stop(); }

  std::uint16_t port() const noexcept override { return port_; }
  const std::string& url() const noexcept override { return url_; }
  void stop() noexcept override;
  void start();

 private:
  std::uint64_t begin_waiting(Connection& connection) override;
  void end_waiting(std::uint64_t ticket) noexcept override { waiting_.erase(ticket); }
  bool stopping() const noexcept override { return stopping_; }
  asio::awaitable<ServerAnswer> on_disk_thread(const ServerRequest& request) override;

  asio::awaitable<void> accept_all();
  asio::awaitable<void> run_connection(std::shared_ptr<Connection> connection);
  asio::awaitable<void> watch_deadlines();
  asio::awaitable<void> pause(std::chrono::milliseconds time);
  bool make_room();
  void begin_stop();
  void start_disk_threads();

  const ServerOptions options_;
  AnswerOptions answers_;
  const BlobStorePtr store_;
  const unsigned max_connections_;
  asio::io_context network_{1};
  asio::io_context disk_;
  asio::executor_work_guard<asio::io_context::executor_type> disk_waits_for_work_{disk_.get_executor()};
  tcp::acceptor acceptor_{network_};
  std::uint16_t port_ = 0;
  std::string url_;

  std::list<Connection*> connections_;
  std::map<std::uint64_t, Connection*> waiting_;  ///< by ticket: the connection that has waited longest is first
  std::uint64_t next_ticket_ = 0;
  bool stopping_ = false;
  Clock::time_point stop_deadline_ = Clock::time_point::max();
  std::vector<std::jthread> disk_threads_;
  std::jthread thread_;
};

[[noreturn]] void cannot_listen(const tcp::endpoint& endpoint, const error_code& error) {
  throw Error(ErrorKind::kIo, fmt::format("cannot listen on {} port {}: {}", endpoint.address().to_string(),
                                          endpoint.port(), error.message()));
}

LoopbackServer::LoopbackServer(const ServerOptions& options, tcp::endpoint endpoint)
    : options_(options),
      store_(make_directory_store(options.root.string())),
      max_connections_(connections_allowed(options)) {
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

/// Starts as many disk threads as possible. A single one does the same work more slowly. (Boost's thread_pool waits for
/// ever when it cannot start its last thread.)
void LoopbackServer::start_disk_threads() {
  const std::size_t wanted = std::max(1U, options_.disk_threads);
  try {
    while (disk_threads_.size() < wanted) disk_threads_.emplace_back([this] { disk_.run(); });
  } catch (const std::system_error& error) {
    if (disk_threads_.empty()) throw;
    log::warn("{} disk threads instead of {}: {}", disk_threads_.size(), wanted, error.what());
  }
}

void LoopbackServer::start() {
  start_disk_threads();
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
  if (thread_.joinable()) {
    asio::post(network_, [this] { begin_stop(); });
    thread_.join();
  }
  disk_waits_for_work_.reset();
  disk_threads_.clear();  // joins
}

void LoopbackServer::begin_stop() {
  stopping_ = true;
  stop_deadline_ = Clock::now() + options_.stop_timeout;
  error_code ignored;
  acceptor_.close(ignored);
  for (const auto& [ticket, connection] : waiting_) connection->close();
}

asio::awaitable<void> LoopbackServer::pause(std::chrono::milliseconds time) {
  asio::steady_timer timer(network_, time);
  error_code ignored;
  co_await timer.async_wait(into(ignored));
}

/// When there are too many connections, closes the one that has waited longest. Returns false when none is waiting.
bool LoopbackServer::make_room() {
  if (connections_.size() < max_connections_) return true;
  if (waiting_.empty()) return false;
  waiting_.begin()->second->close();
  waiting_.erase(waiting_.begin());
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
      // No more files or memory: open connections go on, new ones wait in the kernel's queue.
      if (error != asio::error::connection_aborted) {
        log::warn("accepting a connection: {}", error.message());
        co_await pause(kPause);
      }
      continue;
    }
    socket.set_option(tcp::no_delay(true), error);
    auto connection = std::make_shared<Connection>(*this, options_, answers_, std::move(socket));
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
  connections_.erase(place);
}

/// Runs as long as any connection exists, which keeps network_.run() going.
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
  auto work = [](const ServerRequest& r, BlobStore& store) -> asio::awaitable<ServerAnswer> {
    co_return answer(r, store);
  };
  co_return co_await asio::co_spawn(disk_, work(request, *store_), asio::use_awaitable);
}

std::uint64_t LoopbackServer::begin_waiting(Connection& connection) {
  waiting_.emplace(next_ticket_, &connection);
  return next_ticket_++;
}

tcp::endpoint loopback_endpoint(const ServerOptions& options) {
  error_code error;
  const auto address = asio::ip::make_address(options.address == "localhost" ? "127.0.0.1" : options.address, error);
  if (error) throw Error(ErrorKind::kUsage, fmt::format("{} is not an IP address", options.address));
  if (!address.is_loopback()) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("{} is not a loopback address: isr serve has no access control yet, so anyone who can reach "
                    "it could read, fill and block the repository",
                    options.address),
        {"listen on 127.0.0.1 or ::1, and give others access through ssh -L or a web server that asks for a login"});
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
