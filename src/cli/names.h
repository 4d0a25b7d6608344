#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "account/account.h"
#include "account/parcel_version.h"
#include "base/text.h"

namespace isr {

/// The part after '@': a number, "latest", "latest~N" or a fork ("desk-42-3f2a/41"). Without one it is latest.
struct VersionSelector {
  VersionChoice choice;
  bool given = false;  ///< there was an '@'
};

/// "[REPO:]PARCEL[@VERSION]". "OWNER/" is refused until appliances exist.
struct ParcelName {
  std::string repository;  ///< empty: the default
  std::string parcel;
  VersionSelector version;
};
/// Error{kUsage}; the name is escaped in the message.
ParcelName parse_parcel_name(const std::string& text);
VersionSelector parse_version_selector(std::string_view text);
/// Parses "[REPO:]PARCEL" of a parcel that will be made; the second function refuses "REPO:". Error{kUsage} when there
/// is a version.
ParcelName parse_new_parcel_name(const std::string& text);
std::string new_parcel_name(const std::string& text);
/// Error{kUsage} when the account has a parcel of that name, {kOffline}.
void refuse_taken_name(Account& account, const std::string& name);
/// "90s", "5m", "12h", "2d", "90": Error{kUsage}.
std::chrono::seconds parse_duration(const std::string& text);

}  // namespace isr
