#include "daemon/control.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <list>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/json_object.h"
#include "base/log.h"
#include "base/sleep.h"
#include "base/sync.h"

namespace isr {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::string_view kControlLine = "a control line";
constexpr std::size_t kMaxConnections = 64;
constexpr milliseconds kRequestDeadline{10'000};
constexpr milliseconds kSilence{3'500};  // with what goes before, a person waits less than 5 s
constexpr milliseconds kHeartbeat{1'000};
constexpr milliseconds kBreath{50};
constexpr milliseconds kRefusalPatience{500};
constexpr milliseconds kGlance{50};  // at whether the client is still there

/// The address of a socket however long its directory's path is: through an open directory.
struct SocketAddress {
  explicit SocketAddress(const fs::path& path) {
    address.sun_family = AF_UNIX;
    std::string name = path.string();
    if (name.size() >= sizeof address.sun_path) {
      directory = open_file(path.parent_path(), O_PATH | O_DIRECTORY);
      name = fmt::format("/proc/self/fd/{}/{}", directory.get(), path.filename().string());
    }
    std::copy(name.begin(), name.end(), address.sun_path);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }

  sockaddr_un address{};
  UniqueFd directory;
};

UniqueFd new_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("cannot make a socket", errno);
  return fd;
}

ucred peer_of(int connection) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) throw_errno("a control connection", errno);
  return peer;
}

bool same_user(int connection) { return peer_of(connection).uid == ::geteuid(); }

/// `pid` when it is known who should have answered.
[[noreturn]] void throw_silent(std::optional<pid_t> pid = {}) {
  const double seconds = static_cast<double>(kSilence.count()) / 1000;
  if (!pid) {
    throw Error(ErrorKind::kDaemon, fmt::format("the session daemon does not answer (waited {} s)", seconds),
                {"run the command again; what was written is kept"});
  }
  throw Error(ErrorKind::kDaemon,
              fmt::format("the session daemon, process {}, does not answer (waited {} s)", *pid, seconds),
              {fmt::format("kill -CONT {}    when somebody has stopped it", *pid),
               fmt::format("kill -9 {}    else, and run the command again; what was written is kept", *pid)});
}

/// nullopt: nobody listens.
std::optional<UniqueFd> connect_to(const fs::path& socket) {
  struct stat info {};
  if (::lstat(socket.c_str(), &info) != 0) return std::nullopt;
  if (!S_ISSOCK(info.st_mode)) {
    throw Error(ErrorKind::kDaemon, fmt::format("{} is not a socket", socket.string()));
  }
  if (info.st_uid != ::geteuid()) {
    throw Error(ErrorKind::kDaemon, fmt::format("{} belongs to another user", socket.string()));
  }
  UniqueFd fd = new_socket();
  // A daemon that is stopped accepts nobody; behind those who have asked it before, even connecting waits.
  const timeval limit{std::chrono::duration_cast<std::chrono::seconds>(kSilence).count(), 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  const SocketAddress address(socket);
  if (::connect(fd.get(), address.get(), sizeof(sockaddr_un)) != 0) {
    if (errno == EAGAIN) throw_silent();
    return std::nullopt;
  }
  if (!same_user(fd.get())) throw Error(ErrorKind::kDaemon, fmt::format("another user answers at {}", socket.string()));
  return fd;
}

void send_line(int fd, const json& message) {
  const std::string line = message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  for (std::size_t sent = 0; sent < line.size();) {
    const ssize_t n = ::send(fd, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("the control connection broke", errno);
    sent += static_cast<std::size_t>(n);
  }
}

bool has_gone(int fd) {
  pollfd poll_fd{fd, 0, 0};
  return ::poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLHUP) != 0;
}

/// False while the other side does not read what it was sent. True when it has gone: sending tells.
bool has_room(int fd) {
  pollfd poll_fd{fd, POLLOUT, 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

/// Reads lines with a deadline for each.
class LineReader {
 public:
  explicit LineReader(int fd) : fd_(fd) {}

  /// nullopt: the other side closed, or the deadline passed (then timed_out()).
  std::optional<std::string> next(milliseconds timeout, const std::stop_token& stop = {}) {
    const auto deadline = Clock::now() + timeout;
    for (;;) {
      if (const auto end = buffer_.find('\n'); end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      if (buffer_.size() > kMaxControlLine) throw Error(ErrorKind::kCorrupt, "a control line is too long");
      if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; run the command again to go on");
      const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
      const auto wait = std::clamp(left, milliseconds(0), milliseconds(100));
      pollfd poll_fd{fd_, POLLIN, 0};
      const int ready = ::poll(&poll_fd, 1, static_cast<int>(wait.count()));
      // The deadline alone says nothing: a command that was stopped (Ctrl-Z) finds it passed, and its answer here.
      timed_out_ = ready == 0 && left.count() <= 0;
      if (timed_out_) return std::nullopt;
      if (ready <= 0) continue;
      char bytes[4096];
      const ssize_t n = ::read(fd_, bytes, sizeof bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return std::nullopt;
      buffer_.append(bytes, static_cast<std::size_t>(n));
    }
  }
  bool timed_out() const { return timed_out_; }

 private:
  int fd_;
  std::string buffer_;
  bool timed_out_ = false;
};

json error_line(const Error& error) {
  return {{"type", "error"}, {"kind", to_name(error.kind())}, {"message", error.what()}, {"hints", error.hints()}};
}

std::string type_of(const json& message) {
  const auto type = message.find("type");
  if (type == message.end() || !type->is_string()) throw Error(ErrorKind::kCorrupt, "a control line has no type");
  return type->get<std::string>();
}

/// Throws what error_line() was made of.
[[noreturn]] void throw_error_of(const json& message) {
  std::string what;
  std::vector<std::string> hints;
  ErrorKind kind = ErrorKind::kFailed;
  bool is_begun = true;
  try {
    kind = error_kind_from_name(message.at("kind").get<std::string>());
    what = message.at("message").get<std::string>();
    hints = message.at("hints").get<std::vector<std::string>>();
    is_begun = message.value("begun", true);
  } catch (const json::exception&) {
    throw Error(ErrorKind::kCorrupt, "the session daemon reported a failure that cannot be read");
  }
  if (!is_begun) throw NotBegun(what, hints);
  throw Error(kind, what, hints);
}

class Server : public ControlServer {
 public:
  Server(const fs::path& path, ControlHandler handler)
      : path_(path), handler_(std::move(handler)), listener_(new_socket()) {
    make_private_directory(path.parent_path());
    if (connect_to(path)) throw Error(ErrorKind::kDaemon, fmt::format("a daemon listens at {} already", path.string()));
    remove_if_exists(path);  // what a dead daemon left
    const SocketAddress address(path);
    if (::bind(listener_.get(), address.get(), sizeof(sockaddr_un)) != 0 || ::listen(listener_.get(), 64) != 0) {
      throw_errno(fmt::format("cannot listen at {}", path.string()), errno);
    }
    acceptor_ = std::jthread([this](const std::stop_token& stop) { accept_loop(stop); });
  }

  void stop_listening() override {
    std::call_once(stopped_, [this] {
      std::error_code ignored;
      fs::remove(path_, ignored);
      acceptor_.request_stop();
      ::shutdown(listener_.get(), SHUT_RDWR);  // wakes it
      acceptor_.join();
      listener_.reset();
    });
  }

  ~Server() override {
    stop_listening();
    const auto deadline = Clock::now() + milliseconds(2'000);  // last answers get out
    for (auto& connection : connections_) {
      connection.thread.request_stop();
      while (!connection.done && Clock::now() < deadline) std::this_thread::sleep_for(milliseconds(5));
      ::shutdown(connection.fd.get(), SHUT_RDWR);
    }
    connections_.clear();  // joins
  }

 private:
  struct Connection {
    UniqueFd fd;
    std::atomic<bool> done{false};
    std::jthread thread;
  };

  void accept_loop(const std::stop_token& stop) {
    UniqueFd spare = spare_descriptor();
    while (!stop.stop_requested()) {
      connections_.remove_if([](const Connection& c) { return c.done.load(); });
      // More wait to be accepted: those that are here get their answer, or are silent and dropped in time.
      if (connections_.size() >= kMaxConnections) {
        std::this_thread::sleep_for(milliseconds(5));
        continue;
      }
      pollfd poll_fd{listener_.get(), POLLIN, 0};
      if (::poll(&poll_fd, 1, 100) <= 0 || stop.stop_requested()) continue;
      try {
        accept_one(spare);
      } catch (const std::exception& error) {
        log::warn("control connection: {}", error.what());
        sleep_unless_stopped(kBreath, stop);  // whoever waits is still there: at once it would fail again
      }
    }
  }

  void accept_one(UniqueFd& spare) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd && (errno == EMFILE || errno == ENFILE) && spare) {
      // The one that was kept lets us say so; else who asks would wait, and we would be woken for ever.
      spare.reset();
      fd = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (fd && same_user(fd.get())) refuse(fd.get(), "it has no file descriptor left");
      fd.reset();
      spare = spare_descriptor();
      throw Error(ErrorKind::kDaemon, "no file descriptor is left: a command was refused");
    }
    if (!fd) throw_errno("accepting", errno);
    if (!same_user(fd.get())) return;
    Connection& connection = connections_.emplace_back();
    connection.fd = std::move(fd);
    try {
      connection.thread = std::jthread([this, &connection](const std::stop_token& ending) {
        serve(connection.fd.get(), ending);
        ::shutdown(connection.fd.get(), SHUT_RDWR);
        connection.done = true;
      });
    } catch (const std::system_error&) {
      refuse(connection.fd.get(), "it cannot start a thread");
      connections_.pop_back();
      throw;
    }
  }

  static UniqueFd spare_descriptor() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

  /// What was asked has not begun.
  static void refuse(int fd, const std::string& why) noexcept {
    try {
      send_line(fd, error_line({ErrorKind::kDaemon,
                                "the session daemon cannot take the command: " + why,
                                {"run the command again in a moment; what was written is kept"}}));
      // The request must have been read, or closing would take the answer away again.
      LineReader(fd).next(kRefusalPatience);
    } catch (const std::exception&) {  // it has gone
    }
  }

  void serve(int fd, const std::stop_token& ending) noexcept {
    try {
      LineReader reader(fd);
      const auto line = reader.next(kRequestDeadline);
      if (!line) return;
      const json request = parse_json_object(*line, kControlLine);
      answer(fd, request, ending);
    } catch (const std::exception& error) {
      log::warn("control connection: {}", error.what());
    }
  }

  void answer(int fd, const json& request, const std::stop_token& ending) {
    std::stop_source gone;
    const std::stop_callback forward(ending, [&] { gone.request_stop(); });
    Sync<int> writing;
    // Only the last line waits for a client that is stopped: work, and the lock that it holds, must not.
    const auto send_if_read = [&](const json& message) {
      auto guard = writing.lock();
      if (!has_room(fd)) return false;
      send_line(fd, message);
      return true;
    };
    send_if_read({{"type", "accepted"}});
    std::condition_variable_any finished;
    std::mutex mutex;
    // "alive" lines tell a busy daemon from a stopped one. Without a thread for them nothing begins: who asked would
    // soon believe that nobody works for him.
    std::jthread heart;
    const auto beating = [&](const std::stop_token& stop) {
      std::unique_lock lock(mutex);
      auto beat = Clock::now();
      while (!finished.wait_for(lock, stop, kGlance, [&] { return stop.stop_requested(); })) {
        if (stop.stop_requested()) return;
        try {
          if (has_gone(fd)) throw Error(ErrorKind::kDaemon, "the client has gone");
          if (Clock::now() - beat < kHeartbeat) continue;
          beat = Clock::now();
          send_if_read({{"type", "alive"}});
        } catch (const Error&) {
          gone.request_stop();  // work that somebody asked for goes on, if it cannot be given up
          return;
        }
      }
    };
    try {
      heart = std::jthread(beating);
    } catch (const std::system_error&) {
      return refuse(fd, "it cannot start a thread");
    }
    json last;
    try {
      last = handler_(
          request,
          [&](const json& progress) {
            try {
              return send_if_read(progress);
            } catch (const Error&) {
              return true;  // as above: a command that was killed does not stop what it began
            }
          },
          gone.get_token());
      last["type"] = "result";
    } catch (const std::exception& error) {
      last = error_line(as_error(error));
      if (dynamic_cast<const NotBegun*>(&error) != nullptr) last["begun"] = false;
    }
    heart.request_stop();
    heart.join();
    send_line(fd, last);
  }

  fs::path path_;
  ControlHandler handler_;
  UniqueFd listener_;
  std::list<Connection> connections_;  // touched by the acceptor only, then by the destructor
  std::once_flag stopped_;
  std::jthread acceptor_;
};

}  // namespace

std::unique_ptr<ControlServer> start_control_server(const fs::path& socket, ControlHandler handler) {
  return std::make_unique<Server>(socket, std::move(handler));
}

json control_request(const fs::path& socket, const json& request, const ControlProgress& progress,
                     std::stop_token stop) {
  const auto fd = connect_to(socket);
  if (!fd) throw NotBegun(fmt::format("no session daemon listens at {}", socket.string()));
  try {
    send_line(fd->get(), request);
  } catch (const Error& error) {
    throw NotBegun(error.what());
  }
  LineReader reader(fd->get());
  for (bool is_accepted = false;; is_accepted = true) {
    const auto line = reader.next(kSilence, stop);
    if (!line) {
      if (reader.timed_out()) throw_silent(peer_of(fd->get()).pid);
      const std::string what = "the session daemon ended before it answered";
      const std::vector<std::string> hints{"run the command again; what was written is kept"};
      if (!is_accepted) throw NotBegun(what, hints);
      throw Error(ErrorKind::kDaemon, what, hints);
    }
    json message = parse_json_object(*line, kControlLine);
    const std::string type = type_of(message);
    if (type == "result") {
      message.erase("type");
      return message;
    }
    if (type == "error") throw_error_of(message);
    if (type == "progress" && progress) progress(message);
  }
}

bool control_alive(const fs::path& socket) { return connect_to(socket).has_value(); }

}  // namespace isr
