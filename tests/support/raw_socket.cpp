#include "support/raw_socket.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/error.h"

namespace isr::test {
namespace {

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

UniqueFd open_socket() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("socket", errno);
  return fd;
}

/// Appends one piece. Returns false at the end, on an error or after `patience`.
bool receive_some(int fd, std::string& into, std::chrono::milliseconds patience) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, static_cast<int>(patience.count())) <= 0) return false;
  char buffer[16384];
  const ssize_t count = ::recv(fd, buffer, sizeof buffer, 0);
  if (count <= 0) return false;
  into.append(buffer, static_cast<std::size_t>(count));
  return true;
}

}  // namespace

UniqueFd connect_loopback(std::uint16_t port) {
  UniqueFd fd = open_socket();
  const sockaddr_in address = loopback(port);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw_errno("connect", errno);
  }
  return fd;
}

Listener listen_loopback() {
  Listener listener{.fd = open_socket(), .port = 0};
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  if (::bind(listener.fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(listener.fd.get(), 128) != 0 ||
      ::getsockname(listener.fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw_errno("listen", errno);
  }
  listener.port = ntohs(address.sin_port);
  return listener;
}

bool send_all(int fd, std::string_view bytes) noexcept {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

std::string receive_all(int fd, std::chrono::milliseconds patience) {
  std::string all;
  while (receive_some(fd, all, patience)) {
  }
  return all;
}

bool receive_until(int fd, std::string& into, std::string_view end, std::chrono::milliseconds patience) {
  while (into.find(end) == std::string::npos) {
    if (!receive_some(fd, into, patience)) return false;
  }
  return true;
}

void reset_connection(int fd) noexcept {
  sockaddr nobody{};
  nobody.sa_family = AF_UNSPEC;
  ::connect(fd, &nobody, sizeof nobody);  // Linux: dissolves the connection with RST
}

}  // namespace isr::test
