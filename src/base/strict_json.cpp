// nlohmann's SAX parser does the lexing and checks UTF-8. It keeps its nesting on the heap, so deeply nested input
// costs no stack, and it is stopped here.
#include "base/strict_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace isr {
namespace {

constexpr std::size_t kMaxDepth = 4;

class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonValue root;

  bool null() override { return false; }
  bool boolean(bool value) override { return add(JsonValue::Kind::kBoolean, value ? 1 : 0); }
  bool number_integer(number_integer_t) override { return false; }  // negative
  bool number_unsigned(number_unsigned_t value) override { return add(JsonValue::Kind::kNumber, value); }
  bool number_float(number_float_t, const string_t&) override { return false; }
  bool binary(binary_t&) override { return false; }
  bool string(string_t& value) override {
    if (!add(JsonValue::Kind::kText, 0)) return false;
    last_->text = std::move(value);
    return true;
  }
  bool start_object(std::size_t) override { return open(JsonValue::Kind::kObject); }
  bool start_array(std::size_t) override { return open(JsonValue::Kind::kArray); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    for (const auto& item : stack_.back()->items) {
      if (item.name == value) return false;
    }
    key_ = std::move(value);
    return !key_.empty();
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  bool add(JsonValue::Kind kind, std::uint64_t number) {
    if (stack_.empty()) {
      last_ = &root;
    } else {
      stack_.back()->items.emplace_back();
      last_ = &stack_.back()->items.back();
    }
    last_->kind = kind;
    last_->number = number;
    last_->name = std::exchange(key_, {});
    return true;
  }
  // The pointers stay valid: a parent's items grow only after its child closed.
  bool open(JsonValue::Kind kind) {
    if (stack_.size() >= kMaxDepth || !add(kind, 0)) return false;
    stack_.push_back(last_);
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  std::vector<JsonValue*> stack_;
  JsonValue* last_ = nullptr;
  std::string key_;
};

void append_escaped(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace

JsonValue parse_strict_json(std::string_view text, std::string_view what) {
  Builder builder;
  bool good = false;
  try {
    good = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  } catch (const nlohmann::json::exception&) {
    good = false;  // whatever the library refuses counts as damage
  }
  if (!good) throw Error(ErrorKind::kCorrupt, fmt::format("{}: not the JSON that was expected", what));
  return std::move(builder.root);
}

JsonFields::JsonFields(const JsonValue& object, std::string what) : object_(object), what_(std::move(what)) {
  if (object.kind != JsonValue::Kind::kObject) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: not a JSON object", what_));
  }
}

void JsonFields::fail(std::string_view name, std::string_view why) const {
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: field \"{}\" {}", what_, name, why));
}

const JsonValue& JsonFields::next(std::string_view name, JsonValue::Kind kind) {
  if (position_ >= object_.items.size() || object_.items[position_].name != name) {
    fail(name, "is absent or out of order");
  }
  const JsonValue& value = object_.items[position_++];
  if (value.kind != kind) fail(name, "has another type");
  return value;
}

const std::string& JsonFields::text(std::string_view name, std::size_t max_size) {
  const JsonValue& value = next(name, JsonValue::Kind::kText);
  if (value.text.size() > max_size) fail(name, "is too long");
  return value.text;
}

std::uint64_t JsonFields::number(std::string_view name, std::uint64_t min, std::uint64_t max) {
  const std::uint64_t value = next(name, JsonValue::Kind::kNumber).number;
  if (value < min || value > max) fail(name, "is out of range");
  return value;
}

bool JsonFields::boolean(std::string_view name) { return next(name, JsonValue::Kind::kBoolean).number != 0; }

Bytes JsonFields::base64(std::string_view name, std::size_t max_size) {
  auto bytes = from_base64(text(name, max_size / 3 * 4 + 4));
  if (!bytes || bytes->size() > max_size) fail(name, "is not valid base64 or is too long");
  return std::move(*bytes);
}

WallTime JsonFields::time(std::string_view name) {
  const auto value = from_rfc3339(text(name, 32));
  if (!value || !is_plausible_time(*value)) fail(name, "is not a plausible time");
  return *value;
}

const std::vector<JsonValue>& JsonFields::array(std::string_view name, std::size_t max_count) {
  const JsonValue& value = next(name, JsonValue::Kind::kArray);
  if (value.items.size() > max_count) fail(name, "is too long");
  return value.items;
}

void JsonFields::expect_end() const {
  if (position_ != object_.items.size()) fail(object_.items[position_].name, "is unknown");
}

void JsonWriter::begin(std::string_view name) {
  if (out_.back() != '{' && out_.back() != '[') out_ += ',';
  if (!name.empty()) {
    append_escaped(out_, name);
    out_ += ':';
  }
}

JsonWriter& JsonWriter::text(std::string_view name, std::string_view value) {
  begin(name);
  append_escaped(out_, value);
  return *this;
}

JsonWriter& JsonWriter::number(std::string_view name, std::uint64_t value) {
  begin(name);
  out_ += std::to_string(value);
  return *this;
}

JsonWriter& JsonWriter::boolean(std::string_view name, bool value) {
  begin(name);
  out_ += value ? "true" : "false";
  return *this;
}

JsonWriter& JsonWriter::hex(std::string_view name, ByteView value) { return text(name, to_hex(value)); }
JsonWriter& JsonWriter::base64(std::string_view name, ByteView value) { return text(name, to_base64(value)); }
JsonWriter& JsonWriter::time(std::string_view name, WallTime value) { return text(name, to_rfc3339(value)); }

JsonWriter& JsonWriter::open_array(std::string_view name) {
  begin(name);
  out_ += '[';
  return *this;
}

JsonWriter& JsonWriter::close_array() {
  out_ += ']';
  return *this;
}

JsonWriter& JsonWriter::open_object() {
  begin("");
  out_ += '{';
  return *this;
}

JsonWriter& JsonWriter::close_object() {
  out_ += '}';
  return *this;
}

std::string JsonWriter::take() {
  out_ += '}';
  return std::move(out_);
}

bool is_plausible_time(WallTime time) {
  using namespace std::chrono;
  return time >= WallTime{} && time < sys_days(year{9999} / January / 1);
}

}  // namespace isr
