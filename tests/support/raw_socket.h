#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/handle.h"

/// Plain TCP on loopback, for peers that do not keep to the protocol.
namespace isr::test {

/// Throws Error{kIo} when nothing listens.
UniqueFd connect_loopback(std::uint16_t port);
struct Listener {
  UniqueFd fd;
  std::uint16_t port = 0;
};
Listener listen_loopback();

/// Returns false when the peer is gone.
bool send_all(int fd, std::string_view bytes) noexcept;
/// Returns the bytes received until the peer ends, or until none arrive for `patience`.
std::string receive_all(int fd, std::chrono::milliseconds patience = std::chrono::seconds(20));
/// Appends to `into` until it contains `end`. Returns false when the peer ended first.
bool receive_until(int fd, std::string& into, std::string_view end,
                   std::chrono::milliseconds patience = std::chrono::seconds(20));
/// Sends RST; the descriptor stays open.
void reset_connection(int fd) noexcept;

}  // namespace isr::test
