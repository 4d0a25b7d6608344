#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <optional>

#include "base/file.h"

/// The addresses of control sockets, and the process at the other end.
namespace isr {

/// A client gives up when it hears nothing for this long. Together with the steps before, a person waits less than 5 s.
inline constexpr std::chrono::milliseconds kControlSilence{3'500};

/// The address of a socket. A path that is too long for sockaddr_un is named through its directory in /proc/self/fd.
struct ControlAddress {
  explicit ControlAddress(const fs::path& path);
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }

  sockaddr_un address{};
  UniqueFd directory;
};

UniqueFd new_control_socket();
/// The process at the other end of a connection.
ucred peer_of(int connection);
bool is_same_user(int connection);
/// Connects. nullopt: no process listens there. Error{kDaemon} if the path is not a socket of this user, or its daemon
/// is stopped.
std::optional<UniqueFd> connect_to_control(const fs::path& socket);
/// Throws Error{kDaemon} for a daemon that does not answer; `pid` is its process, if known.
[[noreturn]] void throw_silent(std::optional<pid_t> pid = {});

}  // namespace isr
