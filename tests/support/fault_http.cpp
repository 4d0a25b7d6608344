#include "support/fault_http.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <mutex>

namespace isr::test {
namespace {

std::size_t content_length(const std::string& head) {
  const std::string name = "Content-Length: ";
  const auto at = head.find(name);
  return at == std::string::npos ? 0 : std::stoul(head.substr(at + name.size()));
}

void pause(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, time, [] { return false; });
}

}  // namespace

std::string http_answer(int status, const std::string& headers, const std::string& body) {
  return fmt::format("HTTP/1.1 {} x\r\n{}Content-Length: {}\r\n\r\n{}", status, headers, body.size(), body);
}

FaultHttp::FaultHttp(Script script)
    : script_(std::move(script)),
      listener_(listen_loopback()),
      accepting_([this](const std::stop_token& stop) { accept_all(stop); }) {}

FaultHttp::~FaultHttp() {
  accepting_.request_stop();
  ::shutdown(listener_.fd.get(), SHUT_RDWR);  // wakes accept()
  accepting_.join();
  auto clients = std::move(*clients_.lock());
  for (auto& client : clients) {
    client.thread.request_stop();
    ::shutdown(client.fd->get(), SHUT_RDWR);
  }
}

void FaultHttp::accept_all(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const auto fd = std::make_shared<UniqueFd>(::accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!*fd) continue;
    ++connections_;
    auto clients = clients_.lock();
    clients->push_back({fd, std::jthread([this, fd](const std::stop_token& stopped) { serve(*fd, stopped); })});
  }
}

void FaultHttp::serve(const UniqueFd& fd, const std::stop_token& stop) {
  std::string input;
  while (!stop.stop_requested() && receive_until(fd.get(), input, "\r\n\r\n")) {
    FaultRequest request;
    const auto end = input.find("\r\n\r\n") + 4;
    request.head = input.substr(0, end);
    input.erase(0, end);
    const std::size_t size = content_length(request.head);
    while (input.size() < size) {
      char buffer[16384];
      const ssize_t count = ::recv(fd.get(), buffer, sizeof buffer, 0);
      if (count <= 0) return;
      input.append(buffer, static_cast<std::size_t>(count));
    }
    request.body = input.substr(0, size);
    input.erase(0, size);
    {
      auto requests = requests_.lock();
      request.number = static_cast<int>(requests->size());
      requests->push_back(request);
    }
    if (!play(fd.get(), script_(request), stop)) break;
  }
  // Leave the descriptor open, because the destructor may be shutting it down.
  ::shutdown(fd.get(), SHUT_RDWR);
}

/// Returns false when the connection is to end.
bool FaultHttp::play(int fd, const FaultAnswer& answer, const std::stop_token& stop) {
  bool there = true;
  if (answer.pause_per_byte.count() == 0) {
    there = send_all(fd, answer.bytes);
  } else {
    for (std::size_t i = 0; there && i < answer.bytes.size() && !stop.stop_requested(); ++i) {
      there = send_all(fd, std::string_view(answer.bytes).substr(i, 1));
      pause(answer.pause_per_byte, stop);
    }
  }
  switch (answer.end) {
    case FaultAnswer::End::kKeep:
      return there;
    case FaultAnswer::End::kClose:
      return false;
    case FaultAnswer::End::kReset:
      reset_connection(fd);
      return false;
    case FaultAnswer::End::kStay:
      receive_all(fd);
      return false;
    case FaultAnswer::End::kEndless:
      while (send_all(fd, answer.bytes) && !stop.stop_requested()) {
      }
      return false;
  }
  return false;
}

}  // namespace isr::test
