#pragma once

#include <string>
#include <string_view>

#include "repository/blob_store.h"

namespace isr {

/// A kind of store, found by the scheme of its address.
struct StoreScheme {
  std::string_view name;   ///< "http" of "http://…", lower case
  std::string_view shown;  ///< how messages show such an address: "http://"
  /// Returns the canonical address for the text after "name://". Error{kUsage}, which does not repeat the address.
  std::string (*canonical)(std::string_view rest);
  /// Opens an address from canonical(). Error{kTransient} is retried as StoreOptions::open_patience says.
  BlobStorePtr (*open)(const std::string& canonical, const StoreOptions& options, std::stop_token stop);
};

/// Throws Error{kUsage}. `why` must not repeat an address with an authority part, because it may hold a password.
[[noreturn]] void refuse_address(const std::string& why);
bool is_ascii_digit(char c) noexcept;
bool is_ascii_letter(char c) noexcept;
std::string ascii_lower(std::string_view text);
/// Returns an absolute path without "." and ".." and without trailing slashes.
std::string canonical_directory(const std::string& path);

}  // namespace isr
