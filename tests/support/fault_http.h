#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "base/sync.h"
#include "support/raw_socket.h"

namespace isr::test {

/// The answer of a faulty server to one request, byte by byte.
struct FaultAnswer {
  enum class End {
    kKeep,     ///< reads the next request
    kClose,    ///< closes the connection with FIN
    kReset,    ///< RST
    kStay,     ///< sends nothing more, keeps the connection open
    kEndless,  ///< repeats `bytes` until the client leaves
  };
  std::string bytes;
  End end = End::kKeep;
  std::chrono::milliseconds pause_per_byte{0};
};
/// "HTTP/1.1 STATUS", `headers` (lines that end in \r\n), Content-Length, body.
std::string http_answer(int status, const std::string& headers, const std::string& body);

struct FaultRequest {
  int number = 0;    ///< 0, 1, … over all connections
  std::string head;  ///< request line and headers
  std::string body;
};

/// A loopback HTTP server that answers as a script says, on threads of its own.
class FaultHttp {
 public:
  using Script = std::function<FaultAnswer(const FaultRequest&)>;
  explicit FaultHttp(Script script);
  ~FaultHttp();
  FaultHttp(const FaultHttp&) = delete;
  FaultHttp& operator=(const FaultHttp&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(listener_.port); }
  std::vector<FaultRequest> requests() const { return *requests_.lock(); }
  int connections() const { return connections_; }

 private:
  void accept_all(const std::stop_token& stop);
  void serve(const UniqueFd& fd, const std::stop_token& stop);
  bool play(int fd, const FaultAnswer& answer, const std::stop_token& stop);

  Script script_;
  Listener listener_;
  Sync<std::vector<FaultRequest>> requests_;
  std::atomic<int> connections_{0};
  struct Client {
    std::shared_ptr<UniqueFd> fd;
    std::jthread thread;
  };
  Sync<std::list<Client>> clients_;
  std::jthread accepting_;
};

}  // namespace isr::test
