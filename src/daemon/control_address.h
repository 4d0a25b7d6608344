#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <optional>

#include "base/file.h"

/// Reaching a control socket: addresses, and who is at the other end.
namespace isr {

/// How long a client hears nothing before it gives up. With what goes before, a person waits less than 5 s.
inline constexpr std::chrono::milliseconds kControlSilence{3'500};

/// The address of a socket however long its directory's path is: through an open directory.
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
/// nullopt: no process listens there. Error{kDaemon} when it is no socket of this user, or its daemon is stopped.
std::optional<UniqueFd> connect_to_control(const fs::path& socket);
/// Error{kDaemon}; `pid` when it is known who should have answered.
[[noreturn]] void throw_silent(std::optional<pid_t> pid = {});

}  // namespace isr
