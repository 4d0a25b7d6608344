#include "base/find_program.h"

#include <unistd.h>

#include <cstdlib>

namespace isr {
namespace {

std::optional<std::filesystem::path> find_in(std::string_view directories, const std::string& name) {
  while (!directories.empty()) {
    const auto directory = directories.substr(0, directories.find(':'));
    directories.remove_prefix(std::min(directories.size(), directory.size() + 1));
    auto candidate = std::filesystem::path(directory) / name;
    if (directory.starts_with('/') && ::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::filesystem::path> find_program(const std::string& name, std::string_view also) {
  const char* const path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): isr never changes its environment
  if (auto found = find_in(path != nullptr ? path : "/usr/bin:/bin", name)) return found;
  return find_in(also, name);
}

}  // namespace isr
