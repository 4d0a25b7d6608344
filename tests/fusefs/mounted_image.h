#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "base/error.h"
#include "base/file.h"
#include "server_protocol.h"
#include "support/bytes.h"

namespace isr::test {

inline bool can_mount() {
  if (::access("/dev/fuse", F_OK) == 0) return true;
  WARN("skipped: /dev/fuse is absent");
  return false;
}

struct MountedOptions {
  std::uint64_t size;
  bool immutable = false;
  std::string source_name = "isr";
  fs::path point{};          ///< where to mount; empty: on a temporary directory
  uid_t user = ::geteuid();  ///< who serves
};

/// disk.raw (writable), version.raw (read-only) and ram.raw (writable, what fails is tried again), mounted by a process
/// of its own: mount_server.cpp. What it does not answer within a minute, or answers with a failure, throws.
///
/// Threads: one at a time, but files of the mount may be used by others meanwhile.
class MountedImage {
 public:
  static constexpr std::uint64_t kSize = (3U << 20U) + 777;

  explicit MountedImage(const MountedOptions& options = {.size = kSize});
  ~MountedImage();  ///< end(), whose failure fails the test
  MountedImage(const MountedImage&) = delete;
  MountedImage& operator=(const MountedImage&) = delete;

  const fs::path& point() const { return point_; }
  pid_t server() const { return server_; }
  UniqueFd open(const std::string& name, int flags) const;

  std::int64_t get(File file, Counter counter) const;
  void set(File file, Counter counter, std::uint64_t value) const;
  /// What the image holds, whatever the kernel does.
  Bytes content(File file, std::uint64_t offset, std::size_t length) const;
  void store(File file, std::uint64_t offset, ByteView data) const;

  /// Changes of ram.raw that wait.
  std::int64_t hindrances() const { return ask({.ask = Ask::kHindrances}); }
  void give_up() const { ask({.ask = Ask::kGiveUp}); }

  // As in Mount.
  bool ended() const { return ask({.ask = Ask::kEnded}) == 1; }
  void wait() const { ask({.ask = Ask::kWait}); }
  void stop_waiting() const { ask({.ask = Ask::kStopWaiting}); }
  std::uint64_t open_files() const { return static_cast<std::uint64_t>(ask({.ask = Ask::kOpenFiles})); }
  void refuse_writers() const { ask({.ask = Ask::kRefuse}); }
  void admit_writers() const { ask({.ask = Ask::kAdmit}); }

  /// Unmounts; the server must end by itself, and well.
  void end();
  /// The server dies as it stands, and leaves a dead mount.
  void kill();

 private:
  std::int64_t ask(const Question& question, ByteView given = {}, Bytes* more = nullptr) const;
  int reap();

  std::optional<TempDirectory> directory_;
  fs::path point_;
  UniqueFd channel_;
  pid_t server_ = -1;
};

/// A shared mapping of a whole file.
class Mapping {
 public:
  Mapping(int fd, std::size_t size)
      : size_(size), start_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) {
    if (start_ == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  }
  ~Mapping() { ::munmap(start_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  MutableBytes bytes() { return {static_cast<std::uint8_t*>(start_), size_}; }

 private:
  std::size_t size_;
  void* start_;
};

/// Runs body in a forked process and returns its pid; the process ends with body's result, or with this one.
template <class Body>
pid_t in_child(Body&& body) {
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    int code = 99;
    try {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() == parent) code = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    ::_exit(code);
  }
  return pid;
}
inline int exit_code_of(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// A pipe over which one process tells another that it got somewhere.
class Signal {
 public:
  Signal() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) throw_errno("pipe", errno);
  }
  ~Signal() {
    for (const int end : ends_) ::close(end);
  }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  bool give() { return ::write(ends_[1], "x", 1) == 1; }
  bool take() {
    char c = 0;
    return ::read(ends_[0], &c, 1) == 1;
  }

 private:
  std::array<int, 2> ends_{};
};

}  // namespace isr::test
