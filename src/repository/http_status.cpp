// Classifies an answer by its status and headers alone.
#include <fmt/format.h>

#include "repository/blob_store.h"
#include "repository/http_client.h"
#include "repository/http_message.h"

namespace isr {

std::string_view HttpResponse::header(std::string_view name) const noexcept {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

void throw_for_status(const HttpResponse& response, const std::string& what) {
  const int status = response.status;
  const std::string said = fmt::format("{}: the server answered {}", what, status);
  const std::string text = response.header("content-type").starts_with("text/plain")
                               ? ": " + printable_excerpt(without_blanks(as_text(response.body)))
                               : std::string();
  if (status >= 300 && status < 400) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}, a redirect to {}, which is not followed", said,
                            printable_excerpt(response.header("location"))),
                {"give the repository's final address"});
  }
  switch (status) {
    case 401:
    case 403:
    case 407:
      throw Error(ErrorKind::kDenied, said + text);
    case 507:
      throw Error(ErrorKind::kIo, said + text);
    case 405:
    case 411:
    case 413:
    case 421:
    case 428:
    case 501:
    case 505:
      throw Error(ErrorKind::kUnsupported, said + text);
    default:
      break;
  }
  if (status == 408 || status == 425 || status == 429 || (status >= 500 && status < 600)) {
    if (const auto pause = parse_retry_after(response.header("retry-after"), wall_now())) {
      throw RetryLater(said + text, *pause);
    }
    throw Error(ErrorKind::kTransient, said + text);
  }
  throw Error(ErrorKind::kFailed, said + text);
}

}  // namespace isr
