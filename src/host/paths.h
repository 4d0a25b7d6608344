#pragma once

#include <filesystem>

namespace isr {

namespace fs = std::filesystem;

/// Where isr keeps things: XDG directories, overridden by ISR_CACHE_DIR and ISR_STATE_DIR.
struct Paths {
  fs::path config;         ///< settings, no secrets
  fs::path state;          ///< unsynced changes, keybox copies, trust stores; never lost
  fs::path cache;          ///< sealed objects; people delete caches
  fs::path runtime;        ///< sockets, mounts, the session's keys; 0700. Empty: no variable says where
  fs::path config_file{};  ///< the user's settings, if not config/config.toml (--config, ISR_CONFIG)
  fs::path system_config_file{"/etc/isr/config.toml"};
};

/// From the environment. Touches nothing. Error{kUsage} when neither HOME nor the
/// XDG variables say where; a missing or foreign XDG_RUNTIME_DIR is found by runtime_directory().
Paths paths_from_environment();
/// Paths::runtime, made when absent. Error{kDaemon} with the fix when
/// XDG_RUNTIME_DIR is unset (and /run/user/UID is not there), absent or not ours;
/// {kUsage} when it is so long that no socket fits below it.
fs::path runtime_directory(const Paths& paths);

}  // namespace isr
