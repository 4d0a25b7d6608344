// posix_spawn does not copy the address space, so it stays fast for a process with much memory.
#include "base/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/handle.h"

extern char** environ;

namespace isr {
namespace {

constexpr int kFirstSafeFd = 16;

class Actions {
 public:
  Actions() { posix_spawn_file_actions_init(&actions_); }
  ~Actions() { posix_spawn_file_actions_destroy(&actions_); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;

  void pass(int ours, int theirs) {
    // A source descriptor may have the number that another one is to get. Also, dup2 onto itself would keep
    // close-on-exec.
    if (ours < kFirstSafeFd) {
      moved_.emplace_back(::fcntl(ours, F_DUPFD_CLOEXEC, kFirstSafeFd));
      if (!moved_.back()) throw_errno("a descriptor for a child process", errno);
      ours = moved_.back().get();
    }
    posix_spawn_file_actions_adddup2(&actions_, ours, theirs);
  }
  void detach() {
    posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1);  // descriptors that this process inherited
    posix_spawn_file_actions_addchdir_np(&actions_, "/");
  }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
  std::vector<UniqueFd> moved_;
};

class Attributes {
 public:
  explicit Attributes(bool is_detached) {
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigset_t defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    if (is_detached) sigfillset(&defaults);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &defaults);
    const int detached = is_detached ? POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK : 0;
    posix_spawnattr_setflags(&attributes_, static_cast<short>(POSIX_SPAWN_SETSIGDEF | detached));
  }
  ~Attributes() { posix_spawnattr_destroy(&attributes_); }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_{};
};

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& text : strings) out.push_back(text.data());
  return out;
}

}  // namespace

pid_t spawn(const std::filesystem::path& program, std::vector<std::string> arguments, const SpawnOptions& options) {
  Actions actions;
  for (const auto& [ours, theirs] : options.descriptors) actions.pass(ours, theirs);
  if (options.is_detached) actions.detach();
  const Attributes attributes(options.is_detached);
  std::vector<char*> argv = pointers(arguments);
  argv.push_back(nullptr);
  std::vector<std::string> added = options.environment;
  std::vector<char*> environment = pointers(added);
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  environment.push_back(nullptr);
  pid_t pid = -1;
  const int error =
      ::posix_spawnp(&pid, program.c_str(), actions.get(), attributes.get(), argv.data(), environment.data());
  if (error == ENOENT) throw Error(ErrorKind::kUnsupported, fmt::format("{} is not installed", program.string()));
  if (error != 0) throw_errno("cannot start " + program.string(), error);
  return pid;
}

int await_child(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace isr
