#include "daemon/handover.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/open_account.h"
#include "base/file_lock.h"
#include "daemon/background.h"
#include "daemon/control.h"
#include "daemon/session_daemon.h"
#include "session/held_lock.h"
#include "session/session_state.h"

namespace isr {

using nlohmann::json;

namespace {

json encode_paths(const Paths& paths) {
  return {{"config", encode_path(paths.config)},
          {"state", encode_path(paths.state)},
          {"cache", encode_path(paths.cache)},
          {"runtime", encode_path(paths.runtime)},
          {"config_file", encode_path(paths.config_file)},
          {"system_config_file", encode_path(paths.system_config_file)}};
}

Paths decode_paths(const json& in) {
  Paths paths;
  paths.config = decode_path(in.at("config").get<std::string>());
  paths.state = decode_path(in.at("state").get<std::string>());
  paths.cache = decode_path(in.at("cache").get<std::string>());
  paths.runtime = decode_path(in.at("runtime").get<std::string>());
  paths.config_file = decode_path(in.at("config_file").get<std::string>());
  paths.system_config_file = decode_path(in.at("system_config_file").get<std::string>());
  return paths;
}

constexpr const char* kCacheKey = "cache.dir";  // a path, which JSON cannot hold

/// Returns all settings but cache.dir.
EncodedSettings values_of(EncodedSettings settings) {
  settings.erase(kCacheKey);
  return settings;
}

}  // namespace

EncodedSettings encode_settings(const Paths& paths, const Config& config) {
  EncodedSettings settings = config.for_daemon();
  settings[kCacheKey] = encode_path(paths.cache);
  return settings;
}

std::vector<std::string> follow_settings(Account& account, const EncodedSettings& settings) {
  const auto cache = settings.find(kCacheKey);
  if (cache == settings.end()) throw Error(ErrorKind::kUsage, fmt::format("the settings lack {}", kCacheKey));
  const fs::path cache_directory = decode_path(cache->second);
  std::vector<std::string> kept = account.host.config.follow(values_of(settings));
  if (cache_directory != account.host.paths.cache) kept.emplace_back(kCacheKey);
  return kept;
}

std::string encode_path(const fs::path& path) { return to_base64(as_bytes(path.native())); }

fs::path decode_path(const std::string& text) {
  const auto bytes = from_base64(text);
  if (!bytes) throw Error(ErrorKind::kCorrupt, "a path is not valid base64");
  return std::string(as_text(*bytes));
}

// The keys come before the JSON and not in it, because the JSON library would leave copies of them in memory: u16 size
// | user keys | u32 count | count times (u32 epoch | key) | JSON.
SecretBytes serialise_handover(const Account& account, const ParcelEntry& parcel, const std::string& extra) {
  SecretBytes out;
  const auto put = [&](ByteView bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); };
  const SecretBytes user_keys = serialise_user_keys(account.identity);
  put(ByteWriter().u16(static_cast<std::uint16_t>(user_keys.size())).bytes());
  put(user_keys);
  put(ByteWriter().u32(static_cast<std::uint32_t>(parcel.epoch_keys.size())).bytes());
  for (const auto& [epoch, key] : parcel.epoch_keys) {
    put(ByteWriter().u32(epoch).bytes());
    put(key.view());
  }
  const json message{{"paths", encode_paths(account.host.paths)},
                     {"settings", encode_settings(account.host.paths, account.host.config)},
                     {"repo", account.remote.entry.name},
                     {"url", encode_path(account.remote.entry.url)},  // the path of a directory may hold any bytes
                     {"user", account.remote.entry.user},
                     {"parcel", parcel.id},
                     {"name", parcel.name},
                     {"offline", account.remote.offline()},
                     {"extra", extra}};
  put(as_bytes(message.dump()));
  return out;
}

Handover parse_handover(ByteView bytes) {
  Handover handover;
  json message;
  try {
    ByteReader reader(bytes, "handover");
    handover.keys = parse_user_keys(reader.take(reader.u16()));
    for (std::uint32_t left = reader.u32(); left > 0; --left) {
      const std::uint32_t epoch = reader.u32();
      handover.parcel.epoch_keys[epoch] = reader.fixed<Key>();
    }
    message = json::parse(as_text(reader.rest()), nullptr, false);
  } catch (const Error&) {
    message = {};
  }
  if (!message.is_object()) throw Error(ErrorKind::kUsage, "this command is for isr itself");
  handover.paths = decode_paths(message.at("paths"));
  handover.config = Config::from_command(values_of(message.at("settings").get<EncodedSettings>()));
  handover.entry = {message.at("repo").get<std::string>(), decode_path(message.at("url").get<std::string>()).string(),
                    message.at("user").get<std::string>()};
  handover.parcel.id = message.at("parcel").get<std::string>();
  handover.parcel.name = message.at("name").get<std::string>();
  handover.offline = message.at("offline").get<bool>();
  handover.extra = message.at("extra").get<std::string>();
  return handover;
}

Account open_account(const Handover& handover, const std::shared_ptr<StoreWaits>& waits) {
  OpenOptions options;
  options.offline = handover.offline;
  options.store.waits = waits;
  options.config = handover.config;
  Account account = open_account_with_keys(handover.paths, handover.entry, handover.keys, options);
  give_back_left_locks(account);
  return account;
}

fs::path start_session_daemon(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop) {
  if (const fs::path socket = control_socket(account.host, parcel); control_alive(socket)) {
    if (FileLock::is_held(account.host.parcel_directory(parcel) / "lock")) return socket;
    throw Error(ErrorKind::kVm,
                fmt::format("{} is in use from another state directory, of which this one may be a copy", parcel.name),
                {"run isr suspend or isr checkin with the other directory first; nothing was changed"});
  }
  runtime_directory(account.host.paths);
  const SecretBytes secret = serialise_handover(account, parcel, "");
  start_background({kSessionDaemonArgument}, secret, account.host.parcel_directory(parcel) / "daemon.log", stop);
  return control_socket(account.host, parcel);
}

}  // namespace isr
