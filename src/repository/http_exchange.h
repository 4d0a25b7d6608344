#pragma once

#include <curl/curl.h>

#include "repository/http_client.h"

namespace isr {

/// One request that is under way: the data that curl's callbacks read and write.
struct HttpExchange {
  const HttpRequest& request;
  HttpResponse response;
  std::size_t sent = 0;
  std::size_t header_bytes = 0;
  std::uint64_t moved = 0;  ///< bytes from and to curl
  /// The blank line was received. curl 7.88 reports a connection that closed within the headers as a success with an
  /// empty body.
  bool headers_ended = false;
  enum class Refusal { kNone, kBodyTooLarge, kHeadersTooLarge, kOutOfMemory };
  Refusal refusal = Refusal::kNone;
};

/// Sets easy up so that its next transfer sends exchange.request and fills in the rest of exchange, which must live
/// until the transfer ends.
void set_exchange(CURL* easy, HttpExchange& exchange);

}  // namespace isr
