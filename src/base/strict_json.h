#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"

/// The subset of JSON that the repository's formats use: strings, unsigned integers, booleans, arrays and objects, with
/// the fields of an object in a fixed order. So each value has exactly one text, and a reader can check a text by
/// encoding it again and comparing bytes. nlohmann/json stays inside the .cpp.
namespace isr {

struct JsonValue {
  enum class Kind { kText, kNumber, kBoolean, kArray, kObject };
  Kind kind = Kind::kObject;
  std::string name;  ///< of a field; empty inside an array
  std::string text;
  std::uint64_t number = 0;  ///< a boolean is 0 or 1
  std::vector<JsonValue> items;
};

/// Error{kCorrupt} naming `what` for anything that is not one JSON value of the
/// kinds above, nested at most 4 deep, without duplicate names.
JsonValue parse_strict_json(std::string_view text, std::string_view what);

/// Reads the fields of an object in their fixed order. Every call throws Error{kCorrupt} naming `what` and the field
/// when it is absent, out of order, of another kind or out of bounds.
class JsonFields {
 public:
  JsonFields(const JsonValue& object, std::string what);
  const std::string& text(std::string_view name, std::size_t max_size);
  std::uint64_t number(std::string_view name, std::uint64_t min, std::uint64_t max);
  bool boolean(std::string_view name);
  Bytes base64(std::string_view name, std::size_t max_size);
  WallTime time(std::string_view name);
  const std::vector<JsonValue>& array(std::string_view name, std::size_t max_count);
  template <class Fixed>
  Fixed hex(std::string_view name) {
    const auto value = fixed_from_hex<Fixed>(text(name, 2 * Fixed::kSize));
    if (!value) fail(name, "is not a hash or key");
    return *value;
  }
  void expect_end() const;
  [[noreturn]] void fail(std::string_view name, std::string_view why) const;

 private:
  const JsonValue& next(std::string_view name, JsonValue::Kind kind);

  const JsonValue& object_;
  std::string what_;
  std::size_t position_ = 0;
};

/// Writes one object as one line without spaces. Inside open_array() the name of a value is "".
class JsonWriter {
 public:
  JsonWriter() : out_("{") {}
  JsonWriter& text(std::string_view name, std::string_view value);
  JsonWriter& number(std::string_view name, std::uint64_t value);
  JsonWriter& boolean(std::string_view name, bool value);
  JsonWriter& hex(std::string_view name, ByteView value);
  JsonWriter& base64(std::string_view name, ByteView value);
  JsonWriter& time(std::string_view name, WallTime value);
  JsonWriter& open_array(std::string_view name);
  JsonWriter& close_array();
  JsonWriter& open_object();
  JsonWriter& close_object();
  std::string take();  ///< without a line end

 private:
  void begin(std::string_view name);

  std::string out_;
};

/// True for times that readers accept in signed records: from 1970 to the end of the year 9998. A later time, once
/// seen, would make all following ones look old.
bool is_plausible_time(WallTime time);

}  // namespace isr
