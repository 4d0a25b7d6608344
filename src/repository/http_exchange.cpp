// curl repeats a request by itself when a kept connection turns out to be dead. For a PUT that was already applied,
// this would turn "created" into "exists". So the body cannot be rewound: curl then gives up, and the caller finds out
// by looking.
#include "repository/http_exchange.h"

#include <algorithm>
#include <charconv>

#include "repository/curl_handle.h"
#include "repository/http_message.h"

namespace isr {
namespace {

constexpr std::size_t kMaxHeaderBytes = 64U << 10U;

/// Runs a callback's body: no exception may pass through curl.
template <class Body>
std::size_t guarded(HttpExchange& exchange, Body body) noexcept {
  try {
    return body();
  } catch (...) {
    exchange.refusal = HttpExchange::Refusal::kOutOfMemory;
    return 0;
  }
}

std::size_t take_body(const char* data, std::size_t, std::size_t count, void* user) {
  HttpExchange& exchange = *static_cast<HttpExchange*>(user);
  return guarded(exchange, [&]() -> std::size_t {
    Bytes& body = exchange.response.body;
    if (count > exchange.request.max_response_bytes - body.size()) {
      exchange.refusal = HttpExchange::Refusal::kBodyTooLarge;
      return 0;
    }
    const ByteView bytes = as_bytes({data, count});  // inserting chars would copy them one by one
    body.insert(body.end(), bytes.begin(), bytes.end());
    exchange.moved += count;
    return count;
  });
}

/// Reserves room for the announced body, so that it does not grow in steps.
void reserve_body(HttpExchange& exchange) {
  const std::string_view text = exchange.response.header("content-length");
  std::size_t length = 0;
  std::from_chars(text.data(), text.data() + text.size(), length);
  exchange.response.body.reserve(std::min(length, exchange.request.max_response_bytes));
}

std::size_t take_header(const char* data, std::size_t, std::size_t count, void* user) {
  HttpExchange& exchange = *static_cast<HttpExchange*>(user);
  return guarded(exchange, [&]() -> std::size_t {
    exchange.header_bytes += count;
    exchange.moved += count;
    if (exchange.header_bytes > kMaxHeaderBytes) {
      exchange.refusal = HttpExchange::Refusal::kHeadersTooLarge;
      return 0;
    }
    const std::string_view line(data, count);
    if (line.starts_with("HTTP/")) {  // the first status line, or that after "100 Continue"
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
  HttpExchange& exchange = *static_cast<HttpExchange*>(user);
  const ByteView body = exchange.request.body;
  const std::size_t count = std::min(room, body.size() - exchange.sent);
  std::copy_n(body.begin() + static_cast<std::ptrdiff_t>(exchange.sent), count, out);
  exchange.sent += count;
  exchange.moved += count;
  return count;
}

int refuse_rewind(void*, curl_off_t, int) { return CURL_SEEKFUNC_FAIL; }

}  // namespace

void set_exchange(CURL* easy, HttpExchange& exchange) {
  void* const user = &exchange;
  set_option(easy, CURLOPT_WRITEFUNCTION, &take_body);
  set_option(easy, CURLOPT_WRITEDATA, user);
  set_option(easy, CURLOPT_HEADERFUNCTION, &take_header);
  set_option(easy, CURLOPT_HEADERDATA, user);
  switch (exchange.request.method) {
    case HttpMethod::kGet:
      break;
    case HttpMethod::kHead:
      set_option(easy, CURLOPT_NOBODY, 1L);
      break;
    case HttpMethod::kDelete:
      set_option(easy, CURLOPT_CUSTOMREQUEST, "DELETE");
      break;
    case HttpMethod::kPut:
      set_option(easy, CURLOPT_UPLOAD, 1L);
      set_option(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(exchange.request.body.size()));
      set_option(easy, CURLOPT_READFUNCTION, &give_body);
      set_option(easy, CURLOPT_READDATA, user);
      set_option(easy, CURLOPT_SEEKFUNCTION, &refuse_rewind);
      break;
  }
}

}  // namespace isr
