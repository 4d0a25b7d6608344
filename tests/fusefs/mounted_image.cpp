#include "mounted_image.h"

#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>

#include <cstring>

#include "fusefs/mount.h"

extern char** environ;

namespace isr::test {
namespace {

constexpr int kLongestAnswer_ms = 60000;

pid_t spawn_server(const MountedOptions& options, const fs::path& point, int channel) {
  std::vector<std::string> arguments{ISR_MOUNT_SERVER,
                                     std::to_string(::getpid()),
                                     point.string(),
                                     std::to_string(options.size),
                                     options.immutable ? "ro" : "rw",
                                     options.source_name,
                                     std::to_string(options.user)};
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, channel, STDIN_FILENO);
  pid_t pid = -1;
  const int failure = posix_spawn(&pid, ISR_MOUNT_SERVER, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) throw_errno(ISR_MOUNT_SERVER, failure);
  return pid;
}

}  // namespace

MountedImage::MountedImage(const MountedOptions& options) : point_(options.point) {
  if (point_.empty()) point_ = directory_.emplace().path();
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno("socketpair", errno);
  channel_ = UniqueFd(ends[0]);
  const UniqueFd theirs(ends[1]);
  server_ = spawn_server(options, point_, theirs.get());
  try {
    ask({.ask = Ask::kReady});
  } catch (...) {
    channel_.reset();
    reap();
    throw;
  }
}

MountedImage::~MountedImage() {
  try {
    end();
  } catch (const std::exception& error) {
    FAIL_CHECK(error.what());
  }
}

UniqueFd MountedImage::open(const std::string& name, int flags) const {
  UniqueFd fd(::open((point_ / name).c_str(), flags | O_CLOEXEC));
  if (!fd) throw_errno("open " + name, errno);
  return fd;
}

std::int64_t MountedImage::get(File file, Counter counter) const {
  return ask({.ask = Ask::kGet, .file = file, .counter = counter});
}

void MountedImage::set(File file, Counter counter, std::uint64_t value) const {
  ask({.ask = Ask::kSet, .file = file, .counter = counter, .length = value});
}

Bytes MountedImage::content(File file, std::uint64_t offset, std::size_t length) const {
  Bytes out, part;
  while (out.size() < length) {
    ask({.ask = Ask::kLoad, .file = file, .offset = offset + out.size(), .length = length - out.size()}, {}, &part);
    if (part.empty()) break;
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

void MountedImage::store(File file, std::uint64_t offset, ByteView data) const {
  ask({.ask = Ask::kStore, .file = file, .offset = offset}, data);
}

std::int64_t MountedImage::ask(const Question& question, ByteView given, Bytes* more) const {
  Bytes packet(sizeof question + given.size());
  std::memcpy(packet.data(), &question, sizeof question);
  std::ranges::copy(given, packet.begin() + sizeof question);
  if (::send(channel_.get(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0) throw_errno("asking the server", errno);
  pollfd ready{channel_.get(), POLLIN, 0};
  int count = 0;
  while ((count = ::poll(&ready, 1, kLongestAnswer_ms)) < 0 && errno == EINTR) {
  }
  if (count == 0) throw std::runtime_error("the mount's server does not answer");
  packet.resize(sizeof(Answer) + kLargestLoad);
  const ssize_t length = ::recv(channel_.get(), packet.data(), packet.size(), 0);
  if (length < static_cast<ssize_t>(sizeof(Answer))) throw std::runtime_error("the mount's server went away");
  Answer answer;
  std::memcpy(&answer, packet.data(), sizeof answer);
  const auto rest = ByteView(packet).first(static_cast<std::size_t>(length)).subspan(sizeof answer);
  if (answer.value == kFailed) throw std::runtime_error(std::string(rest.begin(), rest.end()));
  if (more != nullptr) *more = to_bytes(rest);
  return answer.value;
}

void MountedImage::end() {
  if (server_ < 0) return;
  try {
    ask({.ask = Ask::kEnd});
  } catch (...) {
    // Without an answer it is killed; it never outlives the test.
    kill();
    unmount(point_);
    throw;
  }
  const int code = reap();
  if (code != 0) throw std::runtime_error(fmt::format("the mount's server ended with {}", code));
}

void MountedImage::kill() {
  ::kill(server_, SIGKILL);
  reap();
}

int MountedImage::reap() { return exit_code_of(std::exchange(server_, -1)); }

}  // namespace isr::test
