#pragma once

#include <filesystem>

namespace isr {

namespace fs = std::filesystem;

/// The directories of isr: XDG directories, overridden by ISR_CACHE_DIR and ISR_STATE_DIR.
struct Paths {
  fs::path config;         ///< settings, no secrets
  fs::path state;          ///< unsynced changes, keybox copies, trust stores; must not be deleted
  fs::path cache;          ///< sealed objects; may be deleted
  fs::path runtime;        ///< sockets, mounts, the session's keys; 0700. Empty: no variable names it
  fs::path config_file{};  ///< the user's settings, if not config/config.toml (--config, ISR_CONFIG)
  fs::path system_config_file{"/etc/isr/config.toml"};
};

/// Reads the environment only. Error{kUsage} when neither HOME nor the XDG variables name the directories.
/// runtime_directory() notices a missing or foreign XDG_RUNTIME_DIR.
Paths paths_from_environment();
/// Paths::runtime, which is made when absent. Error{kDaemon} with the fix when XDG_RUNTIME_DIR is unset (and
/// /run/user/UID does not exist), absent or owned by another user; {kUsage} when it is so long that no socket fits
/// below it.
fs::path runtime_directory(const Paths& paths);

}  // namespace isr
