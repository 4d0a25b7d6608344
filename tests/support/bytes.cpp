#include "support/bytes.h"

#include <random>
#include <stdexcept>

namespace isr::test {

Bytes random_bytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 engine(seed);  // its output is fixed by the standard, unlike the distributions'
  Bytes out(size);
  for (std::size_t i = 0; i < size; i += 8) {
    const std::uint64_t word = engine();
    for (std::size_t k = 0; k < std::min<std::size_t>(8, size - i); ++k) {
      out[i + k] = static_cast<std::uint8_t>(word >> (8 * k));
    }
  }
  return out;
}

Bytes flip_bit(Bytes bytes, std::size_t bit) {
  if (bytes.empty()) throw std::invalid_argument("flip_bit: no bytes");
  auto& byte = bytes[(bit / 8) % bytes.size()];
  byte = static_cast<std::uint8_t>(byte ^ (1U << (bit % 8)));
  return bytes;
}

}  // namespace isr::test
