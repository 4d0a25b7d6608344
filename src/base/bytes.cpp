#include "base/bytes.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::string_view kBase64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint32_t kNoDigit = 0xff;

std::uint32_t hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return static_cast<std::uint32_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<std::uint32_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<std::uint32_t>(c - 'A' + 10);
  return kNoDigit;
}

std::uint32_t base64_digit(char c) noexcept {
  if (c >= 'A' && c <= 'Z') return static_cast<std::uint32_t>(c - 'A');
  if (c >= 'a' && c <= 'z') return static_cast<std::uint32_t>(c - 'a' + 26);
  if (c >= '0' && c <= '9') return static_cast<std::uint32_t>(c - '0' + 52);
  if (c == '+') return 62;
  if (c == '/') return 63;
  return kNoDigit;
}

template <class Integer>
Integer little_endian(ByteView bytes) noexcept {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i) {
    value = static_cast<Integer>(value | (static_cast<Integer>(bytes[i]) << (8 * i)));
  }
  return value;
}

template <class Integer>
void append_little_endian(Bytes& out, Integer value) {
  for (std::size_t i = 0; i < sizeof(Integer); ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

}  // namespace

std::string to_hex(ByteView bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const auto byte : bytes) {
    out.push_back(kHexDigits[byte >> 4U]);
    out.push_back(kHexDigits[byte & 15U]);
  }
  return out;
}

bool decode_hex(std::string_view text, MutableBytes out) noexcept {
  if (text.size() != 2 * out.size()) return false;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint32_t high = hex_digit(text[2 * i]);
    const std::uint32_t low = hex_digit(text[2 * i + 1]);
    if (high == kNoDigit || low == kNoDigit) return false;
    out[i] = static_cast<std::uint8_t>(high << 4U | low);
  }
  return true;
}

std::optional<Bytes> from_hex(std::string_view text) {
  Bytes out(text.size() / 2);
  if (!decode_hex(text, out)) return std::nullopt;
  return out;
}

std::string to_base64(ByteView bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t group = static_cast<std::uint32_t>(bytes[i]) << 16U;
    if (count > 1) group |= static_cast<std::uint32_t>(bytes[i + 1]) << 8U;
    if (count > 2) group |= bytes[i + 2];
    out.push_back(kBase64Digits[group >> 18U]);
    out.push_back(kBase64Digits[group >> 12U & 63U]);
    out.push_back(count > 1 ? kBase64Digits[group >> 6U & 63U] : '=');
    out.push_back(count > 2 ? kBase64Digits[group & 63U] : '=');
  }
  return out;
}

std::optional<Bytes> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  Bytes out;
  out.reserve(text.size() / 4 * 3);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    const std::size_t missing = i + 4 == text.size() ? padding : 0;
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const auto digit = k < 4 - missing ? base64_digit(text[i + k]) : 0;
      if (digit == kNoDigit) return std::nullopt;
      group = group << 6U | digit;
    }
    // The bits that padding cuts off must be zero. Otherwise two texts would stand for the same bytes.
    if ((group & ((1U << (8 * missing)) - 1)) != 0) return std::nullopt;
    for (std::size_t k = 0; k < 3 - missing; ++k) out.push_back(static_cast<std::uint8_t>(group >> (16 - 8 * k)));
  }
  return out;
}

std::string short_hex(ByteView bytes) { return to_hex(bytes.first(std::min<std::size_t>(6, bytes.size()))); }

ByteView ByteReader::take(std::size_t count) {
  if (count > rest_.size()) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: cut short, {} bytes expected, {} left", what_, count, rest_.size()));
  }
  const auto out = rest_.first(count);
  rest_ = rest_.subspan(count);
  return out;
}

std::uint8_t ByteReader::u8() { return take(1)[0]; }
std::uint16_t ByteReader::u16() { return little_endian<std::uint16_t>(take(2)); }
std::uint32_t ByteReader::u32() { return little_endian<std::uint32_t>(take(4)); }
std::uint64_t ByteReader::u64() { return little_endian<std::uint64_t>(take(8)); }

void ByteReader::expect_end() const {
  if (!rest_.empty()) throw Error(ErrorKind::kCorrupt, fmt::format("{}: {} bytes too many", what_, rest_.size()));
}

ByteWriter& ByteWriter::u8(std::uint8_t v) {
  out_.push_back(v);
  return *this;
}
ByteWriter& ByteWriter::u16(std::uint16_t v) {
  append_little_endian(out_, v);
  return *this;
}
ByteWriter& ByteWriter::u32(std::uint32_t v) {
  append_little_endian(out_, v);
  return *this;
}
ByteWriter& ByteWriter::u64(std::uint64_t v) {
  append_little_endian(out_, v);
  return *this;
}
ByteWriter& ByteWriter::put(ByteView bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
  return *this;
}

}  // namespace isr
