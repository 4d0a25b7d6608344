#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "base/handle.h"
#include "base/stream_socket.h"

namespace isr::test {

inline constexpr const char* kQmpGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}})"
    "\r\n";

/// A message of a client: one line, and the descriptor that came with it.
struct QmpRequest {
  std::string line;
  UniqueFd fd;

  bool is(const std::string& command) const { return line.find("\"" + command + "\"") != std::string::npos; }
  /// The digits after "id":
  std::string id() const {
    const auto at = line.find("\"id\":");
    const auto end = line.find_first_not_of("0123456789", at + 5);
    return at == std::string::npos ? "" : line.substr(at + 5, end - at - 5);
  }
  std::string answer(const std::string& result = "{}") const {
    return "{\"return\": " + result + ", \"id\": " + id() + "}\r\n";
  }
};

/// The other end of a QMP conversation: it sends a greeting and then, for each
/// line it receives, the bytes that the script returns. nullopt hangs up.
class QmpPeer {
 public:
  using Script = std::function<std::optional<std::string>(QmpRequest& request)>;

  explicit QmpPeer(Script script, std::string greeting = kQmpGreeting) : script_(std::move(script)) {
    auto [here, there] = make_socket_pair();
    fd_ = std::move(here);
    client_ = std::move(there);
    wake_ = make_event();
    thread_ = std::jthread([this, greeting = std::move(greeting)] { run(greeting); });
  }
  ~QmpPeer() { raise_event(wake_); }

  UniqueFd take_client_end() { return std::move(client_); }

 private:
  void run(const std::string& greeting) {
    if (!say(greeting)) return;
    QmpRequest request;
    while (hear(request)) {
      const auto words = request.is("qmp_capabilities") ? request.answer() : script_(request);
      if (!words || !say(*words)) break;
      request = {};
    }
    ::shutdown(fd_.get(), SHUT_RDWR);
  }
  bool say(const std::string& text) {
    return send_all(fd_.get(), text, -1, std::chrono::steady_clock::now() + std::chrono::seconds(20)) ==
           SendResult::kSent;
  }
  /// Reads one byte at a time, because a descriptor belongs to the byte that it came with.
  bool hear(QmpRequest& request) {
    for (;;) {
      if (wait_readable(fd_.get(), wake_) == Readable::kWoken) return false;
      char c = 0;
      iovec part{&c, 1};
      alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      if (::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC) <= 0) return false;
      if (const cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr && header->cmsg_type == SCM_RIGHTS) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
        request.fd = UniqueFd(fd);
      }
      if (c == '\n') return true;
      request.line += c;
    }
  }

  Script script_;
  UniqueFd fd_;
  UniqueFd client_;
  UniqueFd wake_;
  std::jthread thread_;
};

}  // namespace isr::test
