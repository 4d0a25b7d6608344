#include "base/json_object.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace isr {

using nlohmann::json;

json parse_json_object(std::string_view text, std::string_view what) {
  constexpr int kMaxDepth = 16;
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) throw Error(ErrorKind::kCorrupt, fmt::format("{} is nested too deep", what));
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw Error(ErrorKind::kCorrupt, fmt::format("{} names a key twice", what));
    }
    return true;
  };
  json parsed;
  try {
    parsed = json::parse(text, check);
  } catch (const json::exception&) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{} is not JSON", what));
  }
  if (!parsed.is_object()) throw Error(ErrorKind::kCorrupt, fmt::format("{} is not a JSON object", what));
  return parsed;
}

}  // namespace isr
