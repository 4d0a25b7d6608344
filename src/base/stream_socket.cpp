#include "base/stream_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace isr {
namespace {

constexpr short kNoEvents = 0;

/// One sendmsg(). Returns the count, or -1 with errno.
ssize_t send_some(int fd, std::string_view text, int pass_fd) {
  iovec part{const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (pass_fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof pass_fd);
    std::memcpy(CMSG_DATA(header), &pass_fd, sizeof pass_fd);
  }
  return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

std::pair<UniqueFd, UniqueFd> make_socket_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno("socketpair", errno);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

UniqueFd make_event() {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) throw_errno("eventfd", errno);
  return event;
}

void raise_event(const UniqueFd& event) noexcept { ::eventfd_write(event.get(), 1); }

Readable wait_readable(int fd, const UniqueFd& event) {
  std::array<pollfd, 2> wanted = {{{fd, POLLIN, kNoEvents}, {event.get(), POLLIN, kNoEvents}}};
  while (::poll(wanted.data(), wanted.size(), -1) < 0)
    if (errno != EINTR) throw_errno("poll", errno);
  return wanted[1].revents != 0 ? Readable::kWoken : Readable::kData;
}

SendResult send_all(int fd, std::string_view text, int pass_fd, Deadline deadline) {
  while (!text.empty()) {
    const ssize_t sent = send_some(fd, text, pass_fd);
    if (sent > 0) {
      text.remove_prefix(static_cast<std::size_t>(sent));
      pass_fd = -1;  // the descriptor went with the first byte
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return SendResult::kGone;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return SendResult::kTimedOut;
    pollfd wanted{fd, POLLOUT, kNoEvents};
    ::poll(&wanted, 1, static_cast<int>(std::min<long long>(left.count(), 1'000'000)));
  }
  return SendResult::kSent;
}

}  // namespace isr
