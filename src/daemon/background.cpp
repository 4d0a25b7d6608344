// The daemon reads the secret from stdin, which is a socket, and answers with one JSON line on stdout.

#include "daemon/background.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/limited_log.h"
#include "base/log.h"
#include "base/spawn.h"
#include "base/stream_socket.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr int kReadyTimeoutMs = 120'000;
constexpr int kStopPollMs = 100;
constexpr std::chrono::seconds kEndPatience{5};
constexpr std::chrono::milliseconds kEndPoll{5};
constexpr std::size_t kMaxSecret = 1U << 20U;

struct Pipe {
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw_errno("cannot make a pipe", errno);
    read = UniqueFd(fds[0]);
    write = UniqueFd(fds[1]);
  }
  UniqueFd read, write;
};

std::string read_line(int fd, int timeout_ms, const std::stop_token& stop) {
  std::string line;
  int waited_ms = 0;
  while (line.find('\n') == std::string::npos) {
    pollfd poll_fd{fd, POLLIN, 0};
    const int ready = ::poll(&poll_fd, 1, kStopPollMs);
    if (ready <= 0 && stop.stop_requested())
      throw Error(ErrorKind::kCancelled, "interrupted while the session daemon started");
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0 && (waited_ms += kStopPollMs) < timeout_ms) continue;
    if (ready == 0) throw Error(ErrorKind::kDaemon, "the session daemon did not start within two minutes");
    char bytes[512];
    const ssize_t n = ::read(fd, bytes, sizeof bytes);
    if (n <= 0) break;
    line.append(bytes, static_cast<std::size_t>(n));
  }
  return line;
}

/// Waits for the daemon's end, so that its lock file and its mount are free when the caller reports the failure.
void await_end(pid_t pid) {
  const auto deadline = std::chrono::steady_clock::now() + kEndPatience;
  while (::waitpid(pid, nullptr, WNOHANG) == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kEndPoll);
  }
}

/// Logs to stderr. The default of spdlog is stdout, where a warning would be taken for the answer.
void log_to_stderr() {
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("isr", make_limited_sink(STDERR_FILENO)));
}

void say(const json& line) {
  const std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  (void)!::write(STDOUT_FILENO, text.data(), text.size());
  // The starter now closes its ends, so both descriptors lead nowhere from here on.
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ::dup2(null.get(), STDOUT_FILENO);
  ::dup2(null.get(), STDIN_FILENO);
}

}  // namespace

void start_background(const std::vector<std::string>& arguments, ByteView secret, const fs::path& log_file,
                      const std::stop_token& stop) {
  const UniqueFd log = open_file(log_file, O_WRONLY | O_CREAT | O_APPEND);
  auto [to_daemon, daemon_input] = make_socket_pair();  // not a pipe: SIGPIPE would kill us if the daemon has died
  Pipe from;
  std::vector<std::string> words{"isr"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  SpawnOptions options;
  options.descriptors = {
      {daemon_input.get(), STDIN_FILENO}, {from.write.get(), STDOUT_FILENO}, {log.get(), STDERR_FILENO}};
  options.is_detached = true;
  const pid_t pid = spawn("/proc/self/exe", std::move(words), options);
  daemon_input.reset();
  from.write.reset();
  const SendResult handed = send_all(to_daemon.get(), {reinterpret_cast<const char*>(secret.data()), secret.size()}, -1,
                                     std::chrono::steady_clock::now() + std::chrono::milliseconds(kReadyTimeoutMs));
  to_daemon.reset();
  std::string line;
  try {
    line = read_line(from.read.get(), kReadyTimeoutMs, stop);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCancelled) throw;  // a slow daemon goes on, and the next command finds it
    ::kill(pid, SIGKILL);  // a daemon that goes on could take the session of the next command
    await_end(pid);
    throw;
  }
  const json answer = json::parse(line, nullptr, false);
  if (answer.is_object() && answer.value("ready", false)) return;
  await_end(pid);
  if (!answer.is_object() || handed != SendResult::kSent) {  // its own error would only be about half a secret
    throw Error(ErrorKind::kDaemon, "the session daemon died while it started",
                {fmt::format("its log: {}", log_file.string())});
  }
  throw Error(error_kind_from_name(answer.value("kind", "")), answer.value("message", ""),
              answer.value("hints", std::vector<std::string>{}));
}

SecretBytes read_background_secret() {
  log_to_stderr();
  if (!secrets_are_locked()) {
    log::warn("keys cannot be locked in memory, so they may be swapped out; ulimit -l should be 2048 or more");
  }
  constexpr std::size_t kPiece = 4096;
  SecretBytes secret;
  for (;;) {
    const std::size_t size = secret.size();
    secret.resize(size + kPiece);
    const ssize_t n = ::read(STDIN_FILENO, secret.data() + size, kPiece);
    secret.resize(size + (n > 0 ? static_cast<std::size_t>(n) : 0));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return secret;
    if (secret.size() > kMaxSecret) throw Error(ErrorKind::kUsage, "too much on standard input");
  }
}

void block_signals() {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &blocked, nullptr);  // before any thread: they inherit it
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
}

void background_ready() { say({{"ready", true}}); }

void background_failed(const std::exception& error) {
  const Error known = as_error(error);
  say({{"ready", false}, {"kind", to_name(known.kind())}, {"message", known.what()}, {"hints", known.hints()}});
}

}  // namespace isr
