#pragma once

#include <curl/curl.h>

#include "repository/http_client.h"

namespace isr {

/// One request under way: what the callbacks of curl read and write.
struct HttpExchange {
  const HttpRequest& request;
  HttpResponse response;
  std::size_t sent = 0;
  std::size_t header_bytes = 0;
  std::uint64_t moved = 0;  ///< bytes from and to curl
  /// The blank line came. curl 7.88 calls a connection that was closed within
  /// the headers a success with an empty body.
  bool headers_ended = false;
  enum class Refusal { kNone, kBodyTooLarge, kHeadersTooLarge, kOutOfMemory };
  Refusal refusal = Refusal::kNone;
};

/// Makes the next transfer of easy send exchange.request and fill the rest of
/// exchange, which must live until that ended.
void set_exchange(CURL* easy, HttpExchange& exchange);

}  // namespace isr
