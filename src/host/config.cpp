// One table has every key, its form and its default. The layers (built in, /etc, the user's file, environment, flags)
// overwrite each other in that order, and the last writer is the origin. toml_file.cpp handles TOML itself.
#include "host/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/file.h"
#include "base/sizes.h"
#include "base/whole_file.h"
#include "host/toml_file.h"
#include "repository/blob_store.h"
#include "repository/keybox.h"

namespace isr {
namespace {

enum class Form { kRepositoryName, kBoolean, kSize, kWaitOrFail, kAccelerator, kMemory, kLease, kAbsolutePath, kText };

struct KnownKey {
  std::string_view key;
  Form form;
  std::string_view built_in;
  const char* variable;
  SettingScope scope = SettingScope::kCommand;
};

constexpr KnownKey kKnownKeys[] = {
    {"default_repo", Form::kRepositoryName, "home", "ISR_REPO"},
    {"offline", Form::kBoolean, "false", "ISR_OFFLINE"},
    {"cache.limit", Form::kSize, "20G", "ISR_CACHE_LIMIT", SettingScope::kSession},
    {"cache.min_free", Form::kSize, "1G", "ISR_CACHE_MIN_FREE", SettingScope::kSession},
    {"cache.decoded", Form::kSize, "2G", "ISR_CACHE_DECODED", SettingScope::kSession},
    {"cache.dir", Form::kAbsolutePath, "", "ISR_CACHE_DIR"},  // passed on as Paths::cache
    {"read.unreachable", Form::kWaitOrFail, "wait", "ISR_READ_UNREACHABLE", SettingScope::kSession},
    {"vm.accelerator", Form::kAccelerator, "auto", "ISR_VM_ACCELERATOR"},
    {"vm.memory", Form::kMemory, "auto", "ISR_VM_MEMORY", SettingScope::kRequest},
    {"suspend.drop_caches", Form::kBoolean, "true", "ISR_SUSPEND_DROP_CACHES", SettingScope::kRequest},
    {"suspend.rehearsal", Form::kBoolean, "true", "ISR_SUSPEND_REHEARSAL", SettingScope::kRequest},
    {"lock.lease", Form::kLease, "600", "ISR_LOCK_LEASE", SettingScope::kSession},
    {"upload.limit", Form::kSize, "0", "ISR_UPLOAD_LIMIT", SettingScope::kRequest},
    {"password.file", Form::kText, "", "ISR_PASSWORD_FILE"},
    {"password.command", Form::kText, "", "ISR_PASSWORD_COMMAND"},
};

constexpr std::string_view kBuiltIn = "built in";  // an origin
constexpr std::string_view kOfCommand = "the command";

const KnownKey* find_key(std::string_view key) {
  const auto* found = std::find_if(std::begin(kKnownKeys), std::end(kKnownKeys),
                                   [&](const KnownKey& known) { return known.key == key; });
  return found == std::end(kKnownKeys) ? nullptr : found;
}

const KnownKey& known_key(const std::string& key) {
  const KnownKey* known = find_key(key);
  if (known == nullptr) {
    throw Error(ErrorKind::kUsage, fmt::format("there is no setting \"{}\"", key), {"isr config show lists them"});
  }
  return *known;
}

[[noreturn]] void refuse(std::string_view key, std::string_view expected) {
  throw Error(ErrorKind::kUsage, fmt::format("{}: expected {}", key, expected));
}

/// The canonical value: "yes" in an environment variable becomes "true".
std::string checked(const KnownKey& known, const std::string& value) {
  switch (known.form) {
    case Form::kRepositoryName:
      check_repository_name(value);
      break;
    case Form::kBoolean:
      if (value == "1" || value == "yes" || value == "true") return "true";
      if (value == "0" || value == "no" || value == "false") return "false";
      refuse(known.key, "true or false");
    case Form::kSize:
      parse_size(value);
      break;
    case Form::kWaitOrFail:
      if (value != "wait" && value != "fail") refuse(known.key, "\"wait\" or \"fail\"");
      break;
    case Form::kAccelerator:
      if (value != "auto" && value != "kvm" && value != "tcg") refuse(known.key, "\"auto\", \"kvm\" or \"tcg\"");
      break;
    case Form::kMemory:
      if (value != "auto" && value != "private" && value != "shared")
        refuse(known.key, "\"auto\", \"private\" or \"shared\"");
      break;
    case Form::kLease:
      if (parse_size(value) < 3 || parse_size(value) > 7 * 24 * 3600)
        refuse(known.key, "a number of seconds from 3 to 604800");
      break;
    case Form::kAbsolutePath:
      if (!value.empty() && !fs::path(value).is_absolute()) refuse(known.key, "an absolute path");
      break;
    case Form::kText:
      break;
  }
  if (value.find('\0') != std::string::npos) refuse(known.key, "text without NUL");
  return value;
}

/// Handles repo.NAME.url and repo.NAME.user; returns false for other keys.
bool take_repository_key(const std::string& key, const std::string& value,
                         std::map<std::string, RepositoryEntry>& entries) {
  constexpr std::string_view kPrefix = "repo.";
  const auto dot = key.rfind('.');
  if (!key.starts_with(kPrefix) || dot <= kPrefix.size()) return false;
  const std::string name = key.substr(kPrefix.size(), dot - kPrefix.size());
  const std::string field = key.substr(dot + 1);
  if (field != "url" && field != "user") return false;
  check_repository_name(name);
  RepositoryEntry& entry = entries[name];
  entry.name = name;
  if (field == "url") {
    entry.url = canonical_store_url(value);
  } else {
    check_user_name(value);
    entry.user = value;
  }
  return true;
}

}  // namespace

void check_repository_name(const std::string& name) {
  const auto letter_or_digit = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool good =
      !name.empty() && name.size() <= 64 && letter_or_digit(name[0]) &&
      std::all_of(name.begin(), name.end(), [&](char c) { return letter_or_digit(c) || c == '_' || c == '-'; });
  // The message does not repeat the name, because it may have any characters.
  if (!good) {
    throw Error(ErrorKind::kUsage,
                "a repository's name must be 1 to 64 letters, digits, '_' or '-' and begin with a letter or digit");
  }
}

fs::path Config::user_file() const {
  return paths_.config_file.empty() ? paths_.config / "config.toml" : paths_.config_file;
}

void Config::assign(const std::string& key, const std::string& value, const std::string& origin) {
  settings_[key] = {key, checked(known_key(key), value), origin};
}

void Config::read_file(const fs::path& path) {
  const auto text = read_settings_file(path);
  if (!text) return;
  std::map<std::string, RepositoryEntry> entries;
  std::map<std::string, std::size_t> lines;
  for (const auto& [key, value] : parse_settings(*text, path.string())) {
    try {
      if (take_repository_key(key, value.text, entries)) {
        lines.try_emplace(key.substr(5, key.rfind('.') - 5), value.line);
      } else {
        assign(key, value.text, path.string());
      }
    } catch (const Error& error) {
      throw Error(ErrorKind::kUsage, fmt::format("{}:{}: {}", path.string(), value.line, error.what()), error.hints());
    }
  }
  for (auto& [name, entry] : entries) {
    if (entry.url.empty() || entry.user.empty()) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("{}:{}: [repo.{}] needs both url and user", path.string(), lines[name], name));
    }
    repositories_[name] = entry;
  }
}

void Config::read_environment() {
  for (const KnownKey& known : kKnownKeys) {
    const char* value = std::getenv(known.variable);  // NOLINT(concurrency-mt-unsafe): nothing sets it
    if (value == nullptr || *value == '\0') continue;
    const std::string origin = fmt::format("environment {}", known.variable);
    try {
      assign(std::string(known.key), value, origin);
    } catch (const Error& error) {
      throw Error(ErrorKind::kUsage, fmt::format("{}: {}", origin, error.what()), error.hints());
    }
  }
}

Config::Config() {
  for (const KnownKey& known : kKnownKeys) {
    settings_[std::string(known.key)] = {std::string(known.key), std::string(known.built_in), std::string(kBuiltIn)};
  }
}

Config Config::load(const Paths& paths) {
  Config config;
  config.paths_ = paths;
  config.read_file(paths.system_config_file);
  if (!paths.config_file.empty() && !fs::exists(paths.config_file)) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: no such file", paths.config_file.string()));
  }
  config.read_file(config.user_file());
  config.read_environment();
  return config;
}

std::vector<RepositoryEntry> Config::repositories() const {
  std::vector<RepositoryEntry> entries;
  for (const auto& [name, entry] : repositories_) entries.push_back(entry);
  return entries;
}

std::optional<RepositoryEntry> Config::repository(const std::string& name) const {
  const auto found = repositories_.find(name);
  if (found == repositories_.end()) return std::nullopt;
  return found->second;
}

std::string Config::default_repository() const {
  const Setting& setting = settings_.at("default_repo");
  const bool is_the_only_one = repositories_.size() == 1 && setting.origin == kBuiltIn;
  return is_the_only_one ? repositories_.begin()->first : setting.value;
}

std::vector<Setting> Config::settings() const {
  std::vector<Setting> all;
  for (const auto& [key, setting] : settings_) all.push_back(setting);
  return all;
}

std::string Config::get(const std::string& key) const { return settings_.at(std::string(known_key(key).key)).value; }
std::uint64_t Config::get_bytes(const std::string& key) const { return parse_size(get(key)); }
std::chrono::seconds Config::get_seconds(const std::string& key) const {
  return std::chrono::seconds(parse_size(get(key)));
}
bool Config::get_bool(const std::string& key) const { return get(key) == "true"; }

std::map<std::string, std::string> Config::for_daemon() const {
  std::map<std::string, std::string> values;
  for (const KnownKey& known : kKnownKeys) {
    if (known.scope != SettingScope::kCommand)
      values[std::string(known.key)] = settings_.at(std::string(known.key)).value;
  }
  return values;
}

Config Config::from_command(const std::map<std::string, std::string>& values) {
  Config config;
  for (const auto& [key, value] : values) config.assign(key, value, std::string(kOfCommand));
  return config;
}

std::vector<std::string> Config::follow(const std::map<std::string, std::string>& values) {
  std::vector<std::string> kept;
  for (const auto& [key, value] : values) {
    if (known_key(key).scope == SettingScope::kRequest) {
      assign(key, value, std::string(kOfCommand));
    } else if (get(key) != value) {
      kept.push_back(key);
    }
  }
  return kept;
}

void Config::override_with_flag(const std::string& key, const std::string& value) { assign(key, value, "flag"); }

void Config::rewrite(const std::string& text) {
  const fs::path file = user_file();
  std::error_code error;
  const fs::path real = fs::exists(file) ? fs::canonical(file, error) : file;
  if (error) throw Error(ErrorKind::kIo, fmt::format("{}: {}", file.string(), error.message()));
  make_private_directory(real.parent_path());
  replace_file(real, as_bytes(text));
}

void Config::set(const std::string& key, const std::string& value) {
  const std::string good = checked(known_key(key), value);
  const fs::path file = user_file();
  rewrite(edit_setting(read_settings_file(file).value_or(""), file.string(), key, good));
  Setting& setting = settings_.at(key);
  const bool outranked = setting.origin == "flag" || setting.origin.starts_with("environment ");
  if (!outranked) setting = {key, good, file.string()};
}

void Config::add_repository(const RepositoryEntry& entry) {
  check_repository_name(entry.name);
  check_user_name(entry.user);
  const RepositoryEntry good{entry.name, canonical_store_url(entry.url), entry.user};
  if (repositories_.contains(entry.name)) {
    throw Error(ErrorKind::kUsage, fmt::format("a repository called {} exists already", entry.name),
                {fmt::format("choose another name, or: isr repo rm {}", entry.name)});
  }
  const fs::path file = user_file();
  const std::string table = "repo." + good.name;
  std::string text = read_settings_file(file).value_or("");
  text = edit_setting(text, file.string(), table + ".user", good.user);
  rewrite(edit_setting(text, file.string(), table + ".url", good.url));  // inserted above user
  repositories_[good.name] = good;
}

void Config::remove_repository(const std::string& name) {
  if (!repositories_.contains(name)) {
    throw Error(ErrorKind::kNotFound, fmt::format("there is no repository called {}", name), {"isr repo ls"});
  }
  const fs::path file = user_file();
  rewrite(remove_table(read_settings_file(file).value_or(""), file.string(), "repo." + name));
  repositories_.erase(name);
}

}  // namespace isr
