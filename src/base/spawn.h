#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace isr {

struct SpawnOptions {
  std::vector<std::string> environment{};          ///< "NAME=value", besides ours
  std::vector<std::pair<int, int>> descriptors{};  ///< of ours, and the number below 16 that each has in the child
  bool is_detached = false;  ///< a session of its own at "/", without our signal settings and other descriptors
};

/// Starts a program with `arguments`, of which the first is its name. The caller waits for its end. SIGPIPE ends it,
/// also where we ignore that. Error{kUnsupported} when there is no such program, else by errno. (A child that must
/// not outlive us: base/child_process.h.)
pid_t spawn(const std::filesystem::path& program, std::vector<std::string> arguments, const SpawnOptions& options = {});
/// Waits for the end of a child; returns waitpid()'s status.
int await_child(pid_t pid);

}  // namespace isr
