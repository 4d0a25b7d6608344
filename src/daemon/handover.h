#pragma once

#include <map>

#include "account/account.h"
#include "account/open_account.h"
#include "repository/store_waits.h"

/// The data that a command hands to a daemon: keys, places and settings.
namespace isr {

/// Paths are bytes, which JSON cannot hold: they pass in base64.
std::string encode_path(const fs::path& path);
/// Error{kCorrupt} for a text that is no base64.
fs::path decode_path(const std::string& text);

/// The settings of a command by their keys, as its requests to a daemon have them. cache.dir is a path, in base64.
using EncodedSettings = std::map<std::string, std::string>;
EncodedSettings encode_settings(const Paths& paths, const Config& config);
/// In the daemon: goes by those that follow the command. Returns the keys of those that stay though they differ.
/// Error{kUsage} for a key that is unknown or a value that it cannot have, {kCorrupt} for a cache.dir that is no path.
std::vector<std::string> follow_settings(Account& account, const EncodedSettings& settings);

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
