#pragma once

#include "cli/app.h"

/// Takes a parcel's lock from another host.
namespace isr {

/// Adds --take-lock to a command that publishes a session.
void add_take_lock_of_session(Command& command, bool& take_lock);
/// Runs body, which takes the parcel's lock. Passes it a reason to take the lock from another host when `take_lock` is
/// set, or when that host's lease has run out and the user agrees on the terminal. Without a terminal: Error{kLocked},
/// with the parcel's name and what to do.
void take_over_if_agreed(CommandContext& context, const OpenParcel& parcel, bool take_lock,
                         const std::function<void(const std::optional<std::string>& steal_reason)>& body);

}  // namespace isr
