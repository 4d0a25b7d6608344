#pragma once

#include <chrono>

#include "repository/blob_store.h"
#include "repository/http_client.h"
#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/fault_http.h"

/// An HTTP store with a server, or something between, that does something wrong.
namespace isr::test {

inline const std::string kServer = "Isr-Repository: writable\r\n";

inline StoreOptions impatient(std::chrono::milliseconds stall_timeout = std::chrono::seconds(10)) {
  StoreOptions options;
  options.connect_timeout = std::chrono::milliseconds(2000);
  options.stall_timeout = stall_timeout;
  return options;
}

inline bool is_probe(const FaultRequest& request) { return request.head.starts_with("GET /isr-repository "); }

/// A server that answers the question of open_http_store() well and then so.
inline FaultHttp::Script then(FaultAnswer answer) {
  return [answer](const FaultRequest& request) {
    return is_probe(request) ? FaultAnswer{.bytes = http_answer(200, kServer, "{}")} : answer;
  };
}

struct Faulty {
  FaultHttp server;
  BlobStorePtr store;
  explicit Faulty(FaultAnswer answer, const StoreOptions& options = impatient())
      : server(then(std::move(answer))), store(open_http_store(server.url(), options)) {}
  std::optional<ErrorKind> kind_of_get(std::optional<ByteRange> range = {}) {
    return kind_thrown([&] { store->get("a/b", range); });
  }
  std::optional<ErrorKind> kind_of_put() {
    return kind_thrown([&] { store->put_new("a/b", random_bytes(1000, 1)); });
  }
};

}  // namespace isr::test
