#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace isr {

/// Parses one JSON object from outside. Error{kCorrupt} naming `what` for anything else, for nesting deeper than 16 and
/// for an object that names a key twice. (Formats that are signed or compared byte for byte: base/strict_json.h.)
nlohmann::json parse_json_object(std::string_view text, std::string_view what);

}  // namespace isr
