#pragma once

#include "base/bytes.h"

namespace isr::test {

/// Bytes that do not compress, the same for the same seed on every machine.
Bytes random_bytes(std::size_t size, std::uint64_t seed);
/// A copy with one bit changed; bit counts from 0 and is taken modulo the size.
Bytes flip_bit(Bytes bytes, std::size_t bit);

}  // namespace isr::test
