#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace isr {

struct SpawnOptions {
  std::vector<std::string> environment{};          ///< "NAME=value", added to this process's environment
  std::vector<std::pair<int, int>> descriptors{};  ///< ours, and the number below 16 in the child
  bool is_detached = false;  ///< has a session of its own at "/", default signals and no other descriptors
};

/// Starts a program. The first of `arguments` is its name. The caller must wait for its end with await_child(). SIGPIPE
/// ends the child even where this process ignores it. Error{kUnsupported} when the program does not exist, else by
/// errno. (base/child_process.h starts children that must not outlive this process.)
pid_t spawn(const std::filesystem::path& program, std::vector<std::string> arguments, const SpawnOptions& options = {});
/// Waits for the end of a child; returns waitpid()'s status.
int await_child(pid_t pid);

}  // namespace isr
