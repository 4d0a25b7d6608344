#pragma once

#include <chrono>
// clang-format off
#include <utility>  // Boost 1.74's asio/awaitable.hpp uses std::exchange without it
#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
// clang-format on

#include "server/answer.h"
#include "server/server.h"

/// One client's connection, a coroutine on the server's network thread. Only connection.cpp and server.cpp may include
/// this header, because it includes Boost.
namespace isr {

class Connection;

/// The services of the server that connections need. Call them on the network thread only.
class ConnectionOwner {
 public:
  virtual ~ConnectionOwner() = default;
  /// Between begin_waiting() and end_waiting() the connection has no complete request and may be closed to make room.
  /// end_waiting() of an old ticket does nothing.
  virtual std::uint64_t begin_waiting(Connection& connection) = 0;
  virtual void end_waiting(std::uint64_t ticket) noexcept = 0;
  virtual bool stopping() const noexcept = 0;
  /// Calls answer() on a thread that may block; resumes on the network thread.
  virtual boost::asio::awaitable<ServerAnswer> on_disk_thread(const ServerRequest& request) = 0;
};

/// The deadline is a member that the server checks regularly. When it has passed, the server cancels the operation that
/// the coroutine waits for.
///
///   phase                   deadline         evictable   when the server stops
///   waits for a request     idle_timeout     yes         closed
///   reads a header          header_timeout   yes         closed
///   reads a body            body_timeout     no          finishes
///   works on the disk       none             no          finishes
///   writes an answer        body_timeout     no          finishes
class Connection {
 public:
  using Clock = std::chrono::steady_clock;

  Connection(ConnectionOwner& owner, const ServerOptions& options, const AnswerOptions& answers,
             boost::asio::ip::tcp::socket socket)
      : owner_(owner), options_(options), answers_(answers), socket_(std::move(socket)) {}

  /// Returns when the client leaves or misbehaves, or the server stops.
  boost::asio::awaitable<void> serve();
  void check_deadline(Clock::time_point now) noexcept;
  void close() noexcept;  ///< serve() returns soon after

 private:
  class Waiting;
  class Parser;
  enum class Next { kKeep, kClose, kLinger };

  boost::asio::awaitable<bool> wait_for_request();
  boost::asio::awaitable<boost::system::error_code> read_header(Parser& parser);
  boost::asio::awaitable<Next> serve_one();
  boost::asio::awaitable<Next> refuse_input(boost::system::error_code error);
  boost::asio::awaitable<bool> read_body(Parser& parser);
  boost::asio::awaitable<Next> write(ServerAnswer answer, bool is_head, bool keep_alive);
  boost::asio::awaitable<void> linger();
  void set_deadline(std::chrono::milliseconds from_now);

  static constexpr std::size_t kMaxBuffer = 256U << 10U;

  ConnectionOwner& owner_;
  const ServerOptions& options_;
  const AnswerOptions& answers_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_{kMaxBuffer};
  Clock::time_point deadline_ = Clock::time_point::max();
  bool timed_out_ = false;
};

}  // namespace isr
