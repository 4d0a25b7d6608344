#pragma once

#include <chrono>
#include <string_view>
#include <utility>

#include "base/handle.h"

/// UNIX stream sockets. Every wait has a deadline or an event that ends it.
namespace isr {

using Deadline = std::chrono::steady_clock::time_point;

/// Two connected ends, close-on-exec.
std::pair<UniqueFd, UniqueFd> make_socket_pair();
/// An event that wakes a thread from wait_readable().
UniqueFd make_event();
void raise_event(const UniqueFd& event) noexcept;

enum class Readable { kData, kWoken };
/// Waits without a time limit until fd has data (or has ended) or the event is raised.
Readable wait_readable(int fd, const UniqueFd& event);

enum class SendResult { kSent, kTimedOut, kGone };
/// Sends all of text, with descriptor pass_fd unless it is negative. After kTimedOut a part may have been sent.
SendResult send_all(int fd, std::string_view text, int pass_fd, Deadline deadline);

}  // namespace isr
