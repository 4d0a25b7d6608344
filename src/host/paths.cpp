// All paths follow from the environment alone, so that help and version work even when the home directory is broken.
// Only runtime_directory() looks at the disk.
#include "host/paths.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/file.h"

namespace isr {
namespace {

// A socket's path has at most 107 bytes. The longest name below this directory is "/", 12 hex digits, "/" and a short
// word.
constexpr std::size_t kMaxRuntimePath = 75;

/// nullopt when the variable is unset or empty, which mean the same in the XDG specification.
std::optional<fs::path> directory_from(const char* variable) {
  const char* value = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe): before any thread
  if (value == nullptr || *value == '\0') return std::nullopt;
  return fs::path(value);
}

/// The XDG specification says to ignore a relative path.
std::optional<fs::path> xdg_directory(const char* variable) {
  auto path = directory_from(variable);
  if (path && path->is_relative()) return std::nullopt;
  return path;
}

fs::path below_home(const char* what, const char* variable, const char* relative) {
  const auto home = directory_from("HOME");
  if (!home || home->is_relative()) {
    throw Error(ErrorKind::kUsage, fmt::format("the place of {} is not known: HOME is not set", what),
                {fmt::format("set HOME, or {}", variable)});
  }
  return *home / relative;
}

fs::path base_directory(const char* what, const char* variable, const char* relative) {
  const auto base = xdg_directory(variable);
  return (base ? *base : below_home(what, variable, relative)) / "isr";
}

fs::path own_directory(const char* own_variable, const char* what, const char* variable, const char* relative) {
  const auto own = directory_from(own_variable);
  if (!own) return base_directory(what, variable, relative);
  if (own->is_relative()) {
    throw Error(ErrorKind::kUsage, fmt::format("{} must be an absolute path", own_variable));
  }
  return *own;
}

fs::path runtime_base() {
  if (const auto base = xdg_directory("XDG_RUNTIME_DIR")) return *base / "isr";
  const fs::path usual = fmt::format("/run/user/{}", ::getuid());
  std::error_code ignored;
  return fs::is_directory(usual, ignored) ? usual / "isr" : fs::path();
}

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorKind::kDaemon, why,
              {"log in through the system's own login, which makes the directory, or",
               "export XDG_RUNTIME_DIR=$(mktemp -d)     (until you log out)"});
}

}  // namespace

Paths paths_from_environment() {
  Paths paths;
  paths.config = base_directory("the configuration", "XDG_CONFIG_HOME", ".config");
  paths.state = own_directory("ISR_STATE_DIR", "the state directory", "XDG_STATE_HOME", ".local/state");
  paths.cache = own_directory("ISR_CACHE_DIR", "the cache", "XDG_CACHE_HOME", ".cache");
  paths.runtime = runtime_base();
  if (const auto file = directory_from("ISR_CONFIG")) paths.config_file = *file;
  return paths;
}

fs::path runtime_directory(const Paths& paths) {
  if (paths.runtime.empty()) {
    refuse(fmt::format("XDG_RUNTIME_DIR is not set, and there is no /run/user/{}", ::getuid()));
  }
  const fs::path parent = paths.runtime.parent_path();
  if (paths.runtime.native().size() > kMaxRuntimePath) {
    throw Error(ErrorKind::kUsage, fmt::format("{} is too long: no socket can be made below it", parent.string()),
                {fmt::format("set XDG_RUNTIME_DIR to a path of at most {} bytes", kMaxRuntimePath - 4)});
  }
  struct stat info {};
  if (::stat(parent.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    refuse(fmt::format("the runtime directory {} does not exist", parent.string()));
  }
  if (info.st_uid != ::getuid()) {
    refuse(fmt::format("the runtime directory {} belongs to another user", parent.string()));
  }
  try {
    make_private_directory(paths.runtime);
  } catch (const Error& error) {
    refuse(error.what());
  }
  return paths.runtime;
}

}  // namespace isr
