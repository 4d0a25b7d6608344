#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace isr {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;
using MutableBytes = std::span<std::uint8_t>;

inline ByteView as_bytes(std::string_view text) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
inline std::string_view as_text(ByteView bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes to_bytes(ByteView view) { return {view.begin(), view.end()}; }
inline bool is_zero(ByteView bytes) noexcept {
  return bytes.empty() || (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

/// N bytes that are one value, such as a hash or a key. Tag makes each kind a type of its own.
template <std::size_t N, class Tag>
struct FixedBytes {
  std::array<std::uint8_t, N> value{};

  static constexpr std::size_t kSize = N;
  ByteView view() const noexcept { return value; }
  MutableBytes mutable_view() noexcept { return value; }
  bool is_zero() const noexcept { return isr::is_zero(value); }
  friend auto operator<=>(const FixedBytes&, const FixedBytes&) = default;
  friend bool operator==(const FixedBytes&, const FixedBytes&) = default;
};

using Sha256 = FixedBytes<32, struct Sha256Tag>;  ///< digest of a plaintext, or hash of a head
using Sha1 = FixedBytes<20, struct Sha1Tag>;      ///< only used to find candidates
using Cid = FixedBytes<32, struct CidTag>;        ///< SHA-256 of a stored object, and its name
using Key = FixedBytes<32, struct KeyTag>;        ///< a 256-bit symmetric secret; use SecretKey for a key that is kept

struct FixedBytesHash {  ///< for unordered_map: the values are uniform already
  template <std::size_t N, class Tag>
  std::size_t operator()(const FixedBytes<N, Tag>& v) const noexcept {
    std::size_t h = 0;
    std::memcpy(&h, v.value.data(), sizeof h);
    return h;
  }
};

std::string to_hex(ByteView bytes);
/// nullopt unless text is an even number of lower- or upper-case hex digits.
std::optional<Bytes> from_hex(std::string_view text);
/// False unless text is 2 * out.size() hex digits.
[[nodiscard]] bool decode_hex(std::string_view text, MutableBytes out) noexcept;
std::string to_base64(ByteView bytes);
/// nullopt unless text is canonical base64 with padding.
std::optional<Bytes> from_base64(std::string_view text);
/// The first 12 hex digits, for messages.
std::string short_hex(ByteView bytes);

template <class Fixed>
std::optional<Fixed> fixed_from_hex(std::string_view text) {
  std::optional<Fixed> out(std::in_place);
  if (!decode_hex(text, out->mutable_view())) out.reset();
  return out;
}

/// Reads little-endian integers and byte runs from untrusted input. Every call checks the length first and throws
/// Error{kCorrupt} naming `what`.
class ByteReader {
 public:
  ByteReader(ByteView bytes, std::string_view what) : rest_(bytes), what_(what) {}
  std::uint8_t u8();
  std::uint16_t u16();
  std::uint32_t u32();
  std::uint64_t u64();
  ByteView take(std::size_t count);
  template <class Fixed>
  Fixed fixed() {
    Fixed out;
    const auto bytes = take(Fixed::kSize);
    std::copy(bytes.begin(), bytes.end(), out.value.begin());
    return out;
  }
  ByteView rest() const noexcept { return rest_; }
  void expect_end() const;  ///< throws when bytes are left over

 private:
  ByteView rest_;
  std::string what_;
};

/// Appends little-endian integers and byte runs to a buffer.
class ByteWriter {
 public:
  ByteWriter& u8(std::uint8_t v);
  ByteWriter& u16(std::uint16_t v);
  ByteWriter& u32(std::uint32_t v);
  ByteWriter& u64(std::uint64_t v);
  ByteWriter& put(ByteView bytes);
  Bytes take() { return std::move(out_); }
  const Bytes& bytes() const noexcept { return out_; }

 private:
  Bytes out_;
};

}  // namespace isr
