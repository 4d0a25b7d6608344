#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "host/paths.h"

namespace isr {

struct RepositoryEntry {
  std::string name;  ///< e.g. "home"
  std::string url;
  std::string user;
};

/// config.toml: [repo.NAME] url, user; [cache] limit, dir …; flags > environment
/// > user's file > /etc/isr/config.toml > built in.
///
///     default_repo = "home"     # ISR_REPO; the other keys are ISR_SECTION_KEY
///     offline = false
///     [repo.home]
///     url = "http://…"
///     user = "alice"
///     [cache]
///     limit = "20G"
///     min_free = "1G"           # left free on the cache's file system
///     dir = "/big/disk/isr"     # else XDG_CACHE_HOME/isr
///     [read]
///     unreachable = "wait"      # or "fail"
///     [vm]
///     accelerator = "auto"      # kvm, tcg
///     memory = "auto"           # private; shared: slower, but never in the host's swap. auto: private
///                               # unless the host swaps to a disk that is not encrypted
///     [suspend]
///     drop_caches = true        # have the agent in the guest drop its page cache, so that there is less to upload
///     rehearsal = true          # run what was suspended for a second more, to know what a resume needs first
///     [lock]
///     lease = "600"             # seconds without a sign of this host; then another may take over what runs here
///     [upload]
///     limit = "0"               # bytes per second
///     [password]
///     file = "/path"            # or command = "pass show isr"
///
/// A session daemon reads no configuration. It uses the settings of the command that started it. Those of scope
/// kRequest follow the command whose request the daemon carries out.
enum class SettingScope {
  kCommand,  ///< used by the command itself
  kRequest,  ///< used by the daemon while it carries out the command's request
  kSession,  ///< used by the daemon from its start to its end
};

struct Setting {
  std::string key;  ///< "cache.limit"
  std::string value;
  std::string origin;  ///< "flag", "environment ISR_CACHE_LIMIT", a file's path, "built in"
};

class Config {
 public:
  Config();  ///< every setting has its default
  /// Error{kUsage} with file and line for invalid TOML, unknown or duplicate keys, bad values, a file over 1 MiB, a
  /// directory, or a file that others may write.
  static Config load(const Paths& paths);

  std::vector<RepositoryEntry> repositories() const;
  std::optional<RepositoryEntry> repository(const std::string& name) const;
  std::string default_repository() const;         ///< as set; else the only one that is configured, or "home"
  std::vector<Setting> settings() const;          ///< every known key with the value that takes precedence
  std::string get(const std::string& key) const;  ///< Error{kUsage} for an unknown key
  std::uint64_t get_bytes(const std::string& key) const;
  std::chrono::seconds get_seconds(const std::string& key) const;
  bool get_bool(const std::string& key) const;

  /// The settings that a command hands over to a daemon, as key and value. Values are UTF-8.
  std::map<std::string, std::string> for_daemon() const;
  /// The defaults, overridden by these values.
  static Config from_command(const std::map<std::string, std::string>& values);
  /// Takes the settings of scope kRequest. Returns the keys of scope kSession whose values differ here. Error{kUsage}.
  std::vector<std::string> follow(const std::map<std::string, std::string>& values);

  /// Applies the value of a command line flag. It is not written to a file.
  void override_with_flag(const std::string& key, const std::string& value);
  /// These functions rewrite the user's file atomically and keep other keys and comments.
  void set(const std::string& key, const std::string& value);
  void add_repository(const RepositoryEntry& entry);
  void remove_repository(const std::string& name);

 private:
  void read_file(const fs::path& path);
  void read_environment();
  void assign(const std::string& key, const std::string& value, const std::string& origin);
  fs::path user_file() const;
  void rewrite(const std::string& text);

  Paths paths_;
  std::map<std::string, RepositoryEntry> repositories_;
  std::map<std::string, Setting> settings_;
};

/// Accepts 1..64 of [A-Za-z0-9_-], beginning with a letter or digit (a bare TOML key). Error{kUsage} otherwise.
void check_repository_name(const std::string& name);

}  // namespace isr
