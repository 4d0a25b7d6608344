#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/secret.h"

namespace isr {

/// Kernel keyring: `isr login`, `isr logout`. Errors are kFailed (no keyring here).
void keyring_store(const std::string& label, ByteView secret, std::chrono::seconds ttl);
std::optional<SecretBytes> keyring_find(const std::string& label);
bool keyring_forget(const std::string& label);
/// Forgets every key whose label begins so; returns how many there were.
std::size_t keyring_forget_all(std::string_view label_prefix);
inline constexpr std::string_view kKeyringPrefix = "isr:";

}  // namespace isr
