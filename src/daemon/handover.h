#pragma once

#include <map>

#include "account/account.h"
#include "account/open_account.h"
#include "repository/store_waits.h"

/// The data that a command hands to a daemon: keys, places and settings.
namespace isr {

/// Encodes a path in base64, because a path may hold any bytes and JSON may not.
std::string encode_path(const fs::path& path);
/// Error{kCorrupt} for a text that is not valid base64.
fs::path decode_path(const std::string& text);

/// The settings of a command by key, as its requests to a daemon carry them. cache.dir is a path, in base64.
using EncodedSettings = std::map<std::string, std::string>;
EncodedSettings encode_settings(const Paths& paths, const Config& config);
/// In the daemon: adopts the settings that follow each command (SettingScope::kRequest). Returns the keys of the others
/// whose values differ. Error{kUsage} for an unknown key or a value that it cannot have, {kCorrupt} for a cache.dir
/// that is not valid base64.
std::vector<std::string> follow_settings(Account& account, const EncodedSettings& settings);

/// Serialises the keys of an account, and the paths and settings of the command, for a daemon. `extra` is the daemon's
/// own.
SecretBytes serialise_handover(const Account& account, const ParcelEntry& parcel, const std::string& extra);
struct Handover {
  Paths paths;    ///< as the command resolved them from its flags, environment and configuration
  Config config;  ///< resolved likewise
  RepositoryEntry entry;
  UserKeys keys;
  ParcelEntry parcel;
  bool offline = false;
  std::string extra;
};
Handover parse_handover(ByteView bytes);
/// Opens the account that was handed over. `waits` notes the waits of its store; it may be null.
Account open_account(const Handover& handover, const std::shared_ptr<StoreWaits>& waits);

}  // namespace isr
