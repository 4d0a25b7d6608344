// Sizes as people write them. Fractions are exact: digits, never floating point.
#include "base/sizes.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::string_view kUnits = "KMGTPE";
constexpr std::size_t kMaxDigits = 18;

[[noreturn]] void refuse(const std::string& text) {
  std::string shown;
  for (const char c : text.substr(0, 40)) shown += (c >= ' ' && c <= '~') ? c : '?';
  throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is not a size", shown),
              {"write for example 4096, 512M, 20G or 1.5TiB"});
}

std::string_view take_digits(std::string_view& rest) {
  std::size_t count = 0;
  while (count < rest.size() && rest[count] >= '0' && rest[count] <= '9') ++count;
  const auto digits = rest.substr(0, count);
  rest.remove_prefix(count);
  return digits;
}

std::uint64_t value_of(std::string_view digits) {
  std::uint64_t value = 0;
  for (const char c : digits) value = value * 10 + static_cast<std::uint64_t>(c - '0');
  return value;
}

/// The exponent of 1024 that "", "B", "k", "KiB", "GB" … stand for.
std::optional<unsigned> unit_of(std::string_view suffix) {
  if (suffix.empty() || suffix == "B") return 0;
  const char letter = static_cast<char>(suffix[0] >= 'a' && suffix[0] <= 'z' ? suffix[0] - 'a' + 'A' : suffix[0]);
  const auto unit = kUnits.find(letter);
  const auto rest = suffix.substr(1);
  if (unit == std::string_view::npos || !(rest.empty() || rest == "B" || rest == "iB" || rest == "i")) {
    return std::nullopt;
  }
  return static_cast<unsigned>(unit) + 1;
}

}  // namespace

std::uint64_t parse_size(const std::string& text) {
  std::string_view rest = text;
  const auto whole = take_digits(rest);
  std::string_view fraction;
  if (rest.starts_with('.')) {
    rest.remove_prefix(1);
    fraction = take_digits(rest);
    if (fraction.empty() || fraction.size() > 6) refuse(text);
  }
  const auto unit = unit_of(rest);
  if (whole.empty() || whole.size() > kMaxDigits || !unit || (!fraction.empty() && *unit == 0)) refuse(text);
  const std::uint64_t scale = std::uint64_t{1} << (10 * *unit);
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(value_of(whole), scale, &bytes)) refuse(text);
  std::uint64_t denominator = 1;
  for (std::size_t i = 0; i < fraction.size(); ++i) denominator *= 10;
  // Divides before multiplying, because scale times numerator would overflow above a TiB.
  const std::uint64_t numerator = value_of(fraction);
  const std::uint64_t part = scale / denominator * numerator + scale % denominator * numerator / denominator;
  if (__builtin_add_overflow(bytes, part, &bytes) || bytes > (std::uint64_t{1} << 63U) - 1) refuse(text);
  return bytes;
}

std::string format_size(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  value /= 1024;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  // Whole numbers need no ".0", and from 100 on a tenth does not matter.
  const auto tenths = static_cast<std::uint64_t>(value * 10 + 0.5);
  const bool whole = tenths >= 1000 || tenths % 10 == 0;
  return whole ? fmt::format("{:.0f} {}iB", value, kUnits[unit]) : fmt::format("{:.1f} {}iB", value, kUnits[unit]);
}

}  // namespace isr
