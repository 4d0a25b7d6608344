#include <nlohmann/json.hpp>

#include "session/background.h"
#include "session/control.h"
#include "session/daemon.h"
#include "session/session_state.h"

namespace isr {

using nlohmann::json;

Bytes serialise_handover(const Account& account, const ParcelEntry& parcel, const std::string& extra) {
  json epochs = json::object();
  for (const auto& [epoch, key] : parcel.epoch_keys) epochs[std::to_string(epoch)] = to_hex(key.view());
  const json message{{"repo", account.entry.name},
                     {"url", account.entry.url},
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
  handover.entry = {message.at("repo").get<std::string>(), message.at("url").get<std::string>(),
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

fs::path start_session_daemon(const Account& account, const ParcelEntry& parcel) {
  runtime_directory(account.paths);
  const fs::path socket = control_socket(account.paths, parcel.id);
  if (control_alive(socket)) return socket;
  const Bytes secret = serialise_handover(account, parcel, "");
  start_background({kSessionDaemonArgument}, secret, account.parcel_directory(parcel) / "daemon.log");
  return socket;
}

}  // namespace isr
