#pragma once

#include <nlohmann/json_fwd.hpp>

#include "account/account.h"
#include "repository/store_waits.h"

/// What a command hands to a daemon: keys, places and settings.
namespace isr {

/// Paths are bytes, which JSON cannot hold: they pass in base64.
std::string encode_path(const fs::path& path);
fs::path decode_path(const std::string& text);

/// The settings of a command, as its requests to a daemon have them.
nlohmann::json encode_settings(const Paths& paths, const Config& config);
/// In the daemon: goes by those that follow the command. Returns the keys of those that stay though they differ.
std::vector<std::string> follow_settings(Account& account, const nlohmann::json& settings);

/// How the keys of an account, and where its command keeps things, pass to a process of ours.
SecretBytes serialise_handover(const Account& account, const ParcelEntry& parcel, const std::string& extra);
struct Handover {
  Paths paths;    ///< as the command resolved them from its flags, environment and configuration
  Config config;  ///< the same
  RepositoryEntry entry;
  UserKeys keys;
  ParcelEntry parcel;
  bool offline = false;
  std::string extra;
};
Handover parse_handover(ByteView bytes);
/// The account that it hands over. waits: of its store, may be null.
Account open_account(const Handover& handover, const std::shared_ptr<StoreWaits>& waits);

}  // namespace isr
