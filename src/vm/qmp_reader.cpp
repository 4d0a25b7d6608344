#include "vm/qmp_reader.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace isr {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxShown = 80;
constexpr int kMaxVersionPart = 9999;

[[noreturn]] void fail(std::string_view why) { throw Error(ErrorKind::kCorrupt, fmt::format("QMP: {}", why)); }

Json parse_bounded(std::string_view line) {
  bool deep = false;
  const auto watch = [&](int depth, Json::parse_event_t, Json&) {
    deep = deep || depth > QmpReader::kMaxDepth;
    return !deep;
  };
  Json json = Json::parse(line.begin(), line.end(), watch, /*allow_exceptions=*/false);
  if (deep) fail("nested too deep");
  if (!json.is_object()) fail("a line is not a JSON object");
  return json;
}

/// Member `name` of an object, or null.
const Json& member(const Json& object, const char* name) {
  static const Json kAbsent;
  if (!object.is_object()) return kAbsent;
  const auto found = object.find(name);
  return found == object.end() ? kAbsent : *found;
}

std::string text_of(const Json& value, std::string_view what) {
  if (!value.is_string()) fail(fmt::format("{} is not text", what));
  return value.get<std::string>();
}

std::string version_of(const Json& greeting) {
  const Json& numbers = member(member(greeting, "version"), "qemu");
  const auto part = [&](const char* name) {
    const Json& value = member(numbers, name);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMaxVersionPart)
      fail("the greeting has no version");
    return value.get<int>();
  };
  return fmt::format("{}.{}.{}", part("major"), part("minor"), part("micro"));
}

std::optional<std::uint64_t> id_of(const Json& message) {
  const Json& id = member(message, "id");
  if (id.is_null()) return std::nullopt;
  if (!id.is_number_unsigned()) fail("an unknown id");
  return id.get<std::uint64_t>();
}

/// Serialises a value again. Invalid UTF-8 from a guest must not throw here.
std::string dump(const Json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace

QmpMessage parse_qmp_message(std::string_view line) {
  const Json json = parse_bounded(line);
  if (json.contains("QMP")) return QmpGreeting{version_of(member(json, "QMP"))};
  if (json.contains("return")) return QmpReply{id_of(json), dump(member(json, "return"))};
  if (json.contains("error")) {
    const Json& error = member(json, "error");
    return QmpFailure{id_of(json), text_of(member(error, "class"), "an error's class"),
                      text_of(member(error, "desc"), "an error's text")};
  }
  if (json.contains("event")) {
    const Json& data = member(json, "data");
    if (!data.is_null() && !data.is_object()) fail("an event's data is not an object");
    return QmpEvent{text_of(member(json, "event"), "an event's name"), data.is_null() ? "{}" : dump(data)};
  }
  fail(fmt::format("a message of an unknown kind: {}", line.substr(0, kMaxShown)));
}

void QmpReader::feed(ByteView bytes) {
  buffer_.erase(0, parsed_);
  scanned_ -= parsed_;
  parsed_ = 0;
  buffer_.append(as_text(bytes));
}

std::optional<QmpMessage> QmpReader::next() {
  for (;;) {
    const auto end = buffer_.find('\n', scanned_);
    const bool complete = end != std::string::npos;
    const std::size_t size = (complete ? end : buffer_.size()) - parsed_;
    if (size > kMaxLine) fail("a line is too long");
    if (!complete) {
      scanned_ = buffer_.size();
      return std::nullopt;
    }
    std::string_view line(buffer_.data() + parsed_, size);
    parsed_ = scanned_ = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) return parse_qmp_message(line);
  }
}

}  // namespace isr
