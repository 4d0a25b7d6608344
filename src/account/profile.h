#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/secret.h"

namespace isr {

struct Account;

/// One parcel in the profile, with its secret names and keys.
struct ParcelEntry {
  std::string id;  ///< 32 hex digits, random
  std::string name;
  std::map<std::uint32_t, SecretKey> epoch_keys;
  std::string chain() const { return "parcels/" + id; }
  std::uint32_t epoch() const { return epoch_keys.rbegin()->first; }
};

/// The profile chain's payload, JSON; docs/formats/profile.md.
struct Profile {
  std::vector<ParcelEntry> parcels;
};

Bytes encode_profile(const Profile& profile);
/// Error{kCorrupt} for bad ids, names, epochs or counts.
Profile parse_profile(ByteView payload);
/// The newest profile. When offline, the newest one that this host has seen.
Profile read_profile(Account& account);
/// Reads the profile, applies `change` and publishes it. Repeats that when another host published first.
void change_profile(Account& account, const std::function<void(Profile&)>& change, const std::stop_token& stop = {});
/// Error{kNotFound}, with a similar name as a hint.
ParcelEntry find_parcel(const Profile& profile, const std::string& name);
/// Accepts 1..64 of letters, digits, '.', '_', '-', beginning with a letter or digit; no trailing dot, no Windows
/// device name. Error{kUsage} otherwise, with the name escaped.
void check_parcel_name(const std::string& name);

}  // namespace isr
