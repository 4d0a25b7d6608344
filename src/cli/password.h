#pragma once

#include <string>

#include "account/open_account.h"
#include "cli/context.h"

namespace isr {

inline constexpr std::size_t kMaxPassword = 1U << 20U;

/// Takes the password from --password-file or --password-command, their variables or settings, else asks on /dev/tty.
/// Removes one trailing line end. Error{kDenied}, naming the flags, without a terminal or with --no-input; {kUsage} for
/// an empty password and for one longer than kMaxPassword.
PasswordSource password_source(CommandContext& context, const std::string& prompt);
/// True when a flag or variable names a source of the password. It then takes precedence over the keys in the keyring.
bool password_is_given(CommandContext& context);
/// A new password, from the same sources, or asked for twice on a terminal. Error{kUsage} when the two differ.
SecretText new_password(CommandContext& context, const std::string& prompt);
/// A password that replaces the one that the flags above give: from `file`, or asked for twice when `file` is empty.
SecretText replacing_password(CommandContext& context, const std::string& file, const std::string& prompt);
/// The recovery key from `file` (-: stdin), or asked for on /dev/tty when `file` is empty. Error{kUsage} on a typing
/// error.
SecretKey recovery_key(CommandContext& context, const std::string& file);

}  // namespace isr
