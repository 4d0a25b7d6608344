#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace isr {

/// Parses one JSON object from untrusted input. Error{kCorrupt} naming `what` for anything else, for nesting deeper
/// than 16 and for an object that repeats a key. (base/strict_json.h reads formats that are signed or compared byte for
/// byte.)
nlohmann::json parse_json_object(std::string_view text, std::string_view what);

}  // namespace isr
