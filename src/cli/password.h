#pragma once

#include <string>

#include "account/open_account.h"
#include "cli/context.h"

namespace isr {

inline constexpr std::size_t kMaxPassword = 1U << 20U;

/// --password-file, --password-command, their variables or settings, then a
/// prompt on /dev/tty. One trailing line end is taken off. Error{kDenied} naming
/// the flags when there is no way to ask; {kUsage} for an empty one and for one
/// above kMaxPassword.
PasswordSource password_source(CommandContext& context, const std::string& prompt);
/// True when a flag or variable says where the password is: it then goes before the session's keys.
bool password_is_given(CommandContext& context);
/// A new password: as above, and asked twice on a terminal. Error{kUsage} when the two differ.
SecretText new_password(CommandContext& context, const std::string& prompt);
/// One that takes the place of another, which the flags above name: `file`, or asked twice when that is empty.
SecretText replacing_password(CommandContext& context, const std::string& file, const std::string& prompt);
/// From `file` (-: stdin), or asked for on /dev/tty when that is empty. Error{kUsage} on a typing error.
SecretKey recovery_key(CommandContext& context, const std::string& file);

}  // namespace isr
