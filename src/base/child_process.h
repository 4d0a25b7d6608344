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
  std::function<void()> on_exit;         ///< on the thread that watches it; wait_exit() has not returned yet
  int death_signal = SIGKILL;            ///< what it gets when we die
  std::vector<int> blocked_signals;      ///< from its start; it gets them when it unblocks them, if ever
  bool refuse_huge_pages = true;         ///< madvise(MADV_HUGEPAGE) fails; not possible with runs_fusermount
  bool runs_fusermount = false;          ///< which is setuid; else neither it nor what it starts can gain rights
};

/// A program that cannot outlive us, nor read what we have open, nor leave a
/// core file. Output is kept in memory, the newest 64 KiB: it may quote a guest.
/// Threads: all calls, from many threads.
class ChildProcess {
 public:
  ChildProcess() = default;
  ~ChildProcess();  ///< kills it
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Once. Error{kVm} when the program is absent or cannot be run.
  void start(ChildOptions options);
  pid_t pid() const noexcept { return pid_; }
  void kill() noexcept;
  /// waitpid()'s status once it has ended; nullopt on time-out. Error{kCancelled}.
  std::optional<int> wait_exit(const Patience& patience) const;
  std::optional<int> exit_status() const;  ///< as seen at once, in on_exit too
  /// Its stdout and stderr so far.
  std::string output() const;
  /// Its last message, as one line fit to be shown; empty when there is none.
  std::string last_words() const;

 private:
  struct State {
    std::string output;
    std::optional<int> status;  ///< once set, the pid may belong to another process
    bool finished = false;      ///< and on_exit has returned
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
