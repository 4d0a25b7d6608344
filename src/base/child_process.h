#pragma once

#include <signal.h>
#include <sys/types.h>

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/handle.h"
#include "base/patience.h"
#include "base/sync.h"

namespace isr {

struct ChildOptions {
  std::string program;  ///< a path, or a name to look for in PATH
  std::vector<std::string> arguments;
  std::filesystem::path directory;       ///< its working directory
  std::vector<UniqueFd> descriptors;     ///< become 3, 4, … in the child; closed here once it runs
  std::vector<std::string> environment;  ///< "NAME=value", besides PATH and LC_ALL; nothing else is passed on
  std::function<void()> on_exit;         ///< called on the watching thread, before wait_exit() returns
  int death_signal = SIGKILL;            ///< sent to the child when this process dies
  std::vector<int> blocked_signals;      ///< blocked in the child from its start
  bool refuse_huge_pages = true;         ///< madvise(MADV_HUGEPAGE) fails; not possible with runs_fusermount
  bool runs_fusermount = false;  ///< fusermount is setuid; when false, the child and its children cannot gain rights
};

/// A child program that cannot outlive this process, read its open files or leave a core file. The newest 64 KiB of its
/// output are kept in memory only, because they may quote a guest.
/// Threads: every call may run on many threads at once.
class ChildProcess {
 public:
  ChildProcess() = default;
  ~ChildProcess();  ///< kills the child
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Call once. Error{kVm} when the program is absent or cannot be run.
  void start(ChildOptions options);
  pid_t pid() const noexcept { return pid_; }
  void kill() noexcept;
  /// Waits for the end and returns waitpid()'s status; nullopt on time-out. Error{kCancelled}.
  std::optional<int> wait_exit(const Patience& patience) const;
  std::optional<int> exit_status() const;  ///< does not wait; also set inside on_exit
  /// Its stdout and stderr so far.
  std::string output() const;
  /// Its last message, as one line fit to be shown. Empty when there is none.
  std::string last_words() const;

 private:
  struct State {
    std::string output;
    std::optional<int> status;  ///< once set, the pid may belong to another process
    bool finished = false;      ///< on_exit has returned, too
  };
  void watch(int output_fd);
  bool take_output(int output_fd);

  pid_t pid_ = -1;
  Sync<State> state_;
  mutable std::condition_variable_any ended_;
  std::jthread watcher_;
};

/// "killed by signal 11 (Segmentation fault)", "exit code 1".
std::string describe_status(int status);

}  // namespace isr
