#pragma once

#include "cli/app.h"

/// Taking a parcel's lock from another host.
namespace isr {

/// --take-lock of a command that publishes a session.
void add_take_lock_of_session(Command& command, bool& take_lock);
/// Runs body, which takes the parcel's lock: with a reason to take it from another host when `take_lock`, or, when the
/// lease of that host has run out, once the user has agreed on the terminal. Without a terminal: Error{kLocked}, in the
/// parcel's own name, with what to do.
void take_over_if_agreed(CommandContext& context, const OpenParcel& parcel, bool take_lock,
                         const std::function<void(const std::optional<std::string>& steal_reason)>& body);

}  // namespace isr
