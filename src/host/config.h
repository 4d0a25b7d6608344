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
/// A session daemon reads none of it: it goes by the settings of the command that started it, and those of kRequest
/// follow the command whose request it carries out.
enum class SettingScope {
  kCommand,  ///< the command itself goes by it
  kRequest,  ///< the daemon, for as long as it carries out the command's request
  kSession,  ///< the daemon, from its start to its end
};

struct Setting {
  std::string key;  ///< "cache.limit"
  std::string value;
  std::string origin;  ///< "flag", "environment ISR_CACHE_LIMIT", a file's path, "built in"
};

class Config {
 public:
  Config();  ///< every setting has its default
  /// Error{kUsage} with file and line for bad TOML, unknown or duplicate keys, bad
  /// values, a file over 1 MiB, a directory, or one that others may write.
  static Config load(const Paths& paths);

  std::vector<RepositoryEntry> repositories() const;
  std::optional<RepositoryEntry> repository(const std::string& name) const;
  std::string default_repository() const;         ///< as set; else the only one there is, or "home"
  std::vector<Setting> settings() const;          ///< every known key with its winner
  std::string get(const std::string& key) const;  ///< Error{kUsage} for an unknown key
  std::uint64_t get_bytes(const std::string& key) const;
  std::chrono::seconds get_seconds(const std::string& key) const;
  bool get_bool(const std::string& key) const;

  /// The settings that a command hands over to a daemon, key and value. Values are UTF-8.
  std::map<std::string, std::string> for_daemon() const;
  /// The defaults, with these values in their place.
  static Config from_command(const std::map<std::string, std::string>& values);
  /// Takes those of kRequest. Returns the keys of kSession that have another value here. Error{kUsage}.
  std::vector<std::string> follow(const std::map<std::string, std::string>& values);

  /// Takes the value that a flag of the command line gives; it is written nowhere.
  void override_with_flag(const std::string& key, const std::string& value);
  /// These rewrite the user's file, atomically, keeping other keys and comments.
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

/// 1..64 of [A-Za-z0-9_-], beginning with a letter or digit (a bare TOML key). Error{kUsage}.
void check_repository_name(const std::string& name);

}  // namespace isr
