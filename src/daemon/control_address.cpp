#include "daemon/control_address.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

namespace isr {

ControlAddress::ControlAddress(const fs::path& path) {
  address.sun_family = AF_UNIX;
  std::string name = path.string();
  if (name.size() >= sizeof address.sun_path) {
    directory = open_file(path.parent_path(), O_PATH | O_DIRECTORY);
    name = fmt::format("/proc/self/fd/{}/{}", directory.get(), path.filename().string());
  }
  std::copy(name.begin(), name.end(), address.sun_path);
}

UniqueFd new_control_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot make a socket", errno);
  return fd;
}

ucred peer_of(int connection) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    throw_errno("cannot identify the other end of a control connection", errno);
  return peer;
}

bool is_same_user(int connection) { return peer_of(connection).uid == ::geteuid(); }

[[noreturn]] void throw_silent(std::optional<pid_t> pid) {
  const double seconds = static_cast<double>(kControlSilence.count()) / 1000;
  if (!pid) {
    throw Error(ErrorKind::kDaemon, fmt::format("the session daemon does not answer (waited {} s)", seconds),
                {"run the command again; written data is kept"});
  }
  throw Error(ErrorKind::kDaemon,
              fmt::format("the session daemon, process {}, does not answer (waited {} s)", *pid, seconds),
              {fmt::format("kill -CONT {}    if it was stopped with SIGSTOP", *pid),
               fmt::format("kill -9 {}    otherwise; then run the command again; written data is kept", *pid)});
}

std::optional<UniqueFd> connect_to_control(const fs::path& socket) {
  struct stat info {};
  if (::lstat(socket.c_str(), &info) != 0) return std::nullopt;
  if (!S_ISSOCK(info.st_mode)) {
    throw Error(ErrorKind::kDaemon, fmt::format("{} is not a socket", socket.string()));
  }
  if (info.st_uid != ::geteuid()) {
    throw Error(ErrorKind::kDaemon, fmt::format("{} belongs to another user", socket.string()));
  }
  UniqueFd fd = new_control_socket();
  // A stopped daemon (SIGSTOP) accepts no connections. Once its backlog is full, connect() blocks, so it has a limit.
  const timeval limit{std::chrono::duration_cast<std::chrono::seconds>(kControlSilence).count(), 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  const ControlAddress address(socket);
  if (::connect(fd.get(), address.get(), sizeof(sockaddr_un)) != 0) {
    if (errno == EAGAIN) throw_silent();
    return std::nullopt;
  }
  if (!is_same_user(fd.get()))
    throw Error(ErrorKind::kDaemon, fmt::format("another user answers at {}", socket.string()));
  return fd;
}

}  // namespace isr
