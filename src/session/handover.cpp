#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "session/background.h"
#include "session/control.h"
#include "session/daemon.h"
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

std::map<std::string, std::string> values_of(json settings) {
  settings.erase(kCacheKey);
  return settings.get<std::map<std::string, std::string>>();
}

}  // namespace

json encode_settings(const Paths& paths, const Config& config) {
  json settings = config.for_daemon();
  settings[kCacheKey] = encode_path(paths.cache);
  return settings;
}

std::vector<std::string> follow_settings(Account& account, const json& settings) {
  std::vector<std::string> kept = account.config.follow(values_of(settings));
  if (decode_path(settings.at(kCacheKey).get<std::string>()) != account.paths.cache) kept.emplace_back(kCacheKey);
  return kept;
}

std::string encode_path(const fs::path& path) { return to_base64(as_bytes(path.native())); }
fs::path decode_path(const std::string& text) { return std::string(as_text(from_base64(text).value())); }

Bytes serialise_handover(const Account& account, const ParcelEntry& parcel, const std::string& extra) {
  json epochs = json::object();
  for (const auto& [epoch, key] : parcel.epoch_keys) epochs[std::to_string(epoch)] = to_hex(key.view());
  const json message{{"paths", encode_paths(account.paths)},
                     {"settings", encode_settings(account.paths, account.config)},
                     {"repo", account.entry.name},
                     {"url", encode_path(account.entry.url)},  // of a directory: any bytes
                     {"user", account.entry.user},
                     {"keys", to_base64(serialise_user_keys(account.keys))},
                     {"parcel", parcel.id},
                     {"name", parcel.name},
                     {"epochs", epochs},
                     {"offline", account.offline()},
                     {"extra", extra}};
  return to_bytes(as_bytes(message.dump()));
}

Handover parse_handover(ByteView bytes) {
  const json message = json::parse(as_text(bytes), nullptr, false);
  if (!message.is_object()) throw Error(ErrorKind::kUsage, "this command is for isr itself");
  Handover handover;
  handover.paths = decode_paths(message.at("paths"));
  handover.config = Config::from_command(values_of(message.at("settings")));
  handover.entry = {message.at("repo").get<std::string>(), decode_path(message.at("url").get<std::string>()).string(),
                    message.at("user").get<std::string>()};
  handover.keys = parse_user_keys(from_base64(message.at("keys").get<std::string>()).value());
  handover.parcel.id = message.at("parcel").get<std::string>();
  handover.parcel.name = message.at("name").get<std::string>();
  for (const auto& [epoch, key] : message.at("epochs").items()) {
    handover.parcel.epoch_keys[static_cast<std::uint32_t>(std::stoul(epoch))] =
        fixed_from_hex<Key>(key.get<std::string>()).value();
  }
  handover.offline = message.at("offline").get<bool>();
  handover.extra = message.at("extra").get<std::string>();
  return handover;
}

Account open_account(const Handover& handover, const std::shared_ptr<StoreWaits>& waits) {
  OpenOptions options;
  options.offline = handover.offline;
  options.store.waits = waits;
  options.config = handover.config;
  return open_account_with_keys(handover.paths, handover.entry, handover.keys, options);
}

fs::path start_session_daemon(const Account& account, const ParcelEntry& parcel) {
  if (const fs::path socket = control_socket(account, parcel); control_alive(socket)) {
    if (FileLock::is_held(account.parcel_directory(parcel) / "lock")) return socket;
    throw Error(ErrorKind::kVm,
                fmt::format("{} is in use from another state directory, of which this one may be a copy", parcel.name),
                {"isr suspend or isr checkin with the other one first; nothing was changed"});
  }
  runtime_directory(account.paths);
  const Bytes secret = serialise_handover(account, parcel, "");
  start_background({kSessionDaemonArgument}, secret, account.parcel_directory(parcel) / "daemon.log");
  return control_socket(account, parcel);
}

}  // namespace isr
