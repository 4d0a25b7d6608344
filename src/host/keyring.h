#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/secret.h"

namespace isr {

/// The kernel keyring, for `isr login` and `isr logout`. Error{kFailed} when there is no keyring.
void keyring_store(const std::string& label, ByteView secret, std::chrono::seconds ttl);
std::optional<SecretBytes> keyring_find(const std::string& label);
bool keyring_forget(const std::string& label);
/// Forgets every key whose label begins with the prefix; returns how many there were.
std::size_t keyring_forget_all(std::string_view label_prefix);
inline constexpr std::string_view kKeyringPrefix = "isr:";

}  // namespace isr
