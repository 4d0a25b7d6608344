#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "session/paths.h"

namespace isr {

struct RepositoryEntry {
  std::string name;  ///< e.g. "home"
  std::string url;
  std::string user;
};

/// config.toml: [repo.NAME] url, user; [cache] limit, dir …; flags > environment
/// > user's file > /etc/isr/config.toml > built in.
///
///     default_repo = "home"
///     [repo.home]
///     url = "http://…"
///     user = "alice"
///     [cache]
///     limit = "20G"
///     [read]
///     unreachable = "wait"      # or "fail"
///     [vm]
///     accelerator = "auto"      # kvm, tcg
///     [upload]
///     limit = "0"               # bytes per second
struct Setting {
  std::string key;     ///< "cache.limit"
  std::string value;
  std::string origin;  ///< "flag", "environment ISR_CACHE_LIMIT", a file's path, "built in"
};

class Config {
 public:
  /// Error{kUsage} with file and line for bad TOML, unknown or duplicate keys, bad
  /// values, a file over 1 MiB, a directory, or one that others may write.
  static Config load(const Paths& paths);

  std::vector<RepositoryEntry> repositories() const;
  std::optional<RepositoryEntry> repository(const std::string& name) const;
  std::string default_repository() const;  ///< "home" unless set
  std::vector<Setting> settings() const;   ///< every known key with its winner
  std::string get(const std::string& key) const;  ///< Error{kUsage} for an unknown key
  std::uint64_t get_bytes(const std::string& key) const;

  /// These rewrite the user's file (keeping other keys), atomically.
  void set(const std::string& key, const std::string& value);
  void add_repository(const RepositoryEntry& entry);
  void remove_repository(const std::string& name);

 private:
  Paths paths_;
  std::map<std::string, RepositoryEntry> repositories_;
  std::map<std::string, Setting> settings_;
};

/// "1.5G", "10GiB", "4096": bytes, binary units (GB means GiB). Error{kUsage}.
std::uint64_t parse_size(const std::string& text);
/// "1.5 GiB".
std::string format_size(std::uint64_t bytes);

}  // namespace isr
