#pragma once

#include <optional>
#include <string>

#include "base/secret.h"

namespace isr {

/// Reads a line from /dev/tty, without its end. kHidden does not show it. nullopt when there is no terminal.
/// Error{kCancelled} for Ctrl-C and Ctrl-D, {kUsage} for more than 1 MiB.
enum class Echo { kShown, kHidden };
std::optional<SecretText> ask_terminal(const std::string& question, Echo echo);

bool has_terminal();

}  // namespace isr
