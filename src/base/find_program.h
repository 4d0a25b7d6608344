#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace isr {

/// The executable file called `name` in the first directory of PATH that has one, then of `also` (a list like PATH).
/// Relative directories are skipped. Without PATH, /usr/bin and /bin are searched. nullopt when there is none.
std::optional<std::filesystem::path> find_program(const std::string& name, std::string_view also = {});

}  // namespace isr
