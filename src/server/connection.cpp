// Beast parses the requests. refuse_framing() refuses those that Beast accepts although two parsers could understand
// them differently.
#include "server/connection.h"

#include <algorithm>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "base/clock.h"
#include "repository/http_message.h"

namespace isr {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

class Connection::Parser : public http::request_parser<http::vector_body<std::uint8_t>> {};

namespace {

using Response = http::response<http::vector_body<std::uint8_t>>;

constexpr std::size_t kMaxHeader = 16U << 10U;
constexpr std::size_t kReadStep = 16U << 10U;
constexpr std::chrono::seconds kLingerTimeout{2};
constexpr std::size_t kMaxLinger = 4U << 20U;

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

/// Accepts only lengths that a proxy in front cannot read in another way.
std::optional<ServerAnswer> refuse_framing(const http::request_header<>& header) {
  const auto lengths = header.count(http::field::content_length);
  const auto codings = header.count(http::field::transfer_encoding);
  const auto length = header[http::field::content_length];
  const bool digits = std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (lengths + codings > 1 || !digits) return refusal(400, "the length of the body is not clear");
  if (codings == 1 && !beast::iequals(header[http::field::transfer_encoding], "chunked")) {
    return refusal(501, "the only supported transfer coding is chunked");
  }
  if (header.method() == http::verb::put && lengths + codings == 0) return refusal(411, "PUT needs a Content-Length");
  return std::nullopt;
}

/// The answer to bytes that are not a valid request.
ServerAnswer answer_to_bad_request(const error_code& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return refusal(431, "the header is too long");
  }
  if (error == http::error::body_limit) return refusal(413, "the body is too large for a blob");
  return refusal(400, "this is not a valid HTTP request");
}

/// True for the parser's own errors, as opposed to those of the connection.
bool is_bad_request(const error_code& error) {
  return error.category() == http::make_error_code(http::error::bad_method).category() &&
         error != http::error::end_of_stream && error != http::error::partial_message;
}

auto into(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

}  // namespace

/// While it exists, the connection is on the owner's list of those that wait for a request.
class Connection::Waiting {
 public:
  explicit Waiting(Connection& connection)
      : owner_(connection.owner_), ticket_(connection.owner_.begin_waiting(connection)) {}
  ~Waiting() { owner_.end_waiting(ticket_); }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  ConnectionOwner& owner_;
  std::uint64_t ticket_;
};

void Connection::check_deadline(Clock::time_point now) noexcept {
  if (now < deadline_) return;
  timed_out_ = true;
  error_code ignored;
  socket_.cancel(ignored);
}

void Connection::close() noexcept {
  error_code ignored;
  socket_.close(ignored);
}

void Connection::set_deadline(std::chrono::milliseconds from_now) {
  timed_out_ = false;
  deadline_ = Clock::now() + from_now;
}

asio::awaitable<void> Connection::serve() {
  Next next = Next::kKeep;
  while (next == Next::kKeep && !owner_.stopping()) next = co_await serve_one();
  if (next == Next::kLinger) co_await linger();
}

/// Waits for the first byte of a request. Returns false when the peer left.
asio::awaitable<bool> Connection::wait_for_request() {
  if (buffer_.size() != 0) co_return true;  // pipelined
  set_deadline(options_.idle_timeout);
  error_code error;
  const std::size_t count = co_await socket_.async_read_some(buffer_.prepare(kReadStep), into(error));
  if (error) co_return false;
  buffer_.commit(count);
  co_return true;
}

asio::awaitable<error_code> Connection::read_header(Parser& parser) {
  const Waiting waiting(*this);
  const bool came = co_await wait_for_request();
  set_deadline(options_.header_timeout);
  error_code error = http::error::end_of_stream;  // also when the connection was idle for too long
  if (came) co_await http::async_read_header(socket_, buffer_, parser, into(error));
  co_return error;
}

/// Call after 400, 408, 413 or 431, when it is unknown where the next request begins.
asio::awaitable<Connection::Next> Connection::refuse_input(error_code error) {
  if (timed_out_) {
    ServerAnswer late = refusal(408, "the request took too long");
    co_return co_await write(std::move(late), false, false);
  }
  if (!is_bad_request(error)) co_return Next::kClose;
  ServerAnswer bad = answer_to_bad_request(error);
  co_return co_await write(std::move(bad), false, false);
}

/// Returns false when the body did not come; an answer was sent then.
asio::awaitable<bool> Connection::read_body(Parser& parser) {
  if (parser.is_done()) co_return true;
  set_deadline(options_.body_timeout);
  error_code error;
  if (beast::iequals(parser.get()[http::field::expect], "100-continue") && buffer_.size() == 0) {
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    co_await asio::async_write(socket_, asio::buffer(kContinue.data(), kContinue.size()), into(error));
  }
  if (!error) co_await http::async_read(socket_, buffer_, parser, into(error));
  if (error) co_await refuse_input(error);
  co_return !error;
}

asio::awaitable<Connection::Next> Connection::serve_one() {
  Parser parser;
  parser.header_limit(kMaxHeader);
  parser.body_limit(kMaxBlobSize);
  const error_code error = co_await read_header(parser);
  if (error) co_return co_await refuse_input(error);

  ServerRequest request = request_of(parser.get());
  const bool is_head = request.method == ServerMethod::kHead;
  const bool keep = parser.get().keep_alive();
  auto refused = refuse_framing(parser.get());
  const bool framed = !refused.has_value();
  if (framed) refused = refuse_early(request, answers_);
  if (refused) {
    const bool whole = framed && parser.is_done();
    co_return co_await write(std::move(*refused), is_head, whole && keep);
  }
  const bool whole = co_await read_body(parser);
  if (!whole) co_return Next::kLinger;
  request.body = std::move(parser.get().body());

  deadline_ = Clock::time_point::max();
  ServerAnswer answer = co_await owner_.on_disk_thread(request);
  co_return co_await write(std::move(answer), is_head, keep);
}

asio::awaitable<Connection::Next> Connection::write(ServerAnswer answer, bool is_head, bool keep_alive) {
  keep_alive = keep_alive && !owner_.stopping();
  Response response(static_cast<http::status>(answer.status), 11);
  response.set(http::field::date, to_http_date(wall_now()));
  response.set("Isr-Repository", answers_.read_only ? "read-only" : "writable");
  for (const auto& [name, value] : answer.headers) response.set(name, value);
  response.set(http::field::connection, keep_alive ? "keep-alive" : "close");  // written out for HTTP/1.0
  if (answer.status != 204) response.content_length(answer.head_length.value_or(answer.body.size()));
  if (!is_head) response.body() = std::move(answer.body);
  set_deadline(options_.body_timeout);
  error_code error;
  co_await http::async_write(socket_, response, into(error));
  if (error) co_return Next::kClose;
  co_return keep_alive ? Next::kKeep : Next::kLinger;
}

/// Closing with unread bytes would reset the connection and could destroy the answer on its way. So this ends our side
/// and reads on until the peer ends its own.
asio::awaitable<void> Connection::linger() {
  error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  set_deadline(kLingerTimeout);
  buffer_.clear();
  for (std::size_t read = 0; !error && !timed_out_ && read < kMaxLinger;) {
    read += co_await socket_.async_read_some(buffer_.prepare(kReadStep), into(error));
  }
}

}  // namespace isr
