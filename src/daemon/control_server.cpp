#include "daemon/control_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <list>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/log.h"
#include "base/sleep.h"
#include "base/sync.h"
#include "daemon/control.h"
#include "daemon/control_address.h"
#include "daemon/control_line.h"

namespace isr {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t kMaxConnections = 64;
constexpr milliseconds kRequestDeadline{10'000};
constexpr milliseconds kHeartbeat{1'000};
constexpr milliseconds kBreath{50};
constexpr milliseconds kRefusalPatience{500};
constexpr milliseconds kGlance{50};  // between checks that the client is still there

class Server : public ControlServer {
 public:
  Server(const fs::path& path, ControlHandler handler)
      : path_(path), handler_(std::move(handler)), listener_(new_control_socket()) {
    make_private_directory(path.parent_path());
    if (connect_to_control(path))
      throw Error(ErrorKind::kDaemon, fmt::format("a daemon already listens at {}", path.string()));
    remove_if_exists(path);  // left by a dead daemon
    const ControlAddress address(path);
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
      ::shutdown(listener_.get(), SHUT_RDWR);  // wakes the acceptor
      acceptor_.join();
      listener_.reset();
    });
  }

  ~Server() override {
    stop_listening();
    const auto deadline = Clock::now() + milliseconds(2'000);  // for the last answers to be sent
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
      // Further clients wait in the backlog. A place becomes free when a client has its answer, or is dropped because
      // it is silent.
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
        sleep_unless_stopped(kBreath, stop);  // the client still waits, so an immediate attempt would fail again
      }
    }
  }

  void accept_one(UniqueFd& spare) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd && (errno == EMFILE || errno == ENFILE) && spare) {
      // Refuse the client with the help of the spare descriptor. Otherwise it would wait, and poll() would wake us for
      // ever.
      spare.reset();
      fd = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (fd && is_same_user(fd.get())) refuse(fd.get(), "it has no file descriptor left");
      fd.reset();
      spare = spare_descriptor();
      throw Error(ErrorKind::kDaemon, "no file descriptor is left: a command was refused");
    }
    if (!fd) throw_errno("cannot accept a control connection", errno);
    if (!is_same_user(fd.get())) return;
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

  /// Answers with an error. The request has not begun.
  static void refuse(int fd, const std::string& why) noexcept {
    try {
      send_control_line(fd, error_line({ErrorKind::kDaemon,
                                        "the session daemon cannot take the command: " + why,
                                        {"run the command again in a moment; written data is kept"}}));
      // Read the request: closing a connection with unread data would also discard the answer.
      ControlLineReader(fd).next(kRefusalPatience);
    } catch (const std::exception&) {  // the client has gone
    }
  }

  void serve(int fd, const std::stop_token& ending) noexcept {
    try {
      ControlLineReader reader(fd);
      const auto line = reader.next(kRequestDeadline);
      if (!line) return;
      const json request = parse_control_line(*line);
      answer(fd, request, ending);
    } catch (const std::exception& error) {
      log::warn("control connection: {}", error.what());
    }
  }

  void answer(int fd, const json& request, const std::stop_token& ending) {
    std::stop_source gone;
    const std::stop_callback forward(ending, [&] { gone.request_stop(); });
    Sync<int> writing;
    // Only the last line waits for a client that is stopped. The work must not, because it may hold a lock.
    const auto send_if_read = [&](const json& message) {
      auto guard = writing.lock();
      if (!has_room(fd)) return false;
      send_control_line(fd, message);
      return true;
    };
    send_if_read({{"type", "accepted"}});
    std::condition_variable_any finished;
    std::mutex mutex;
    // By "alive" lines a client tells a busy daemon from a stopped one. If there is no thread for them the request is
    // refused, because the client would soon take this daemon for a stopped one.
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
          gone.request_stop();  // work that cannot be given up goes on
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
              return true;  // as above: the work goes on after its command was killed
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
    send_control_line(fd, last);
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

}  // namespace isr
