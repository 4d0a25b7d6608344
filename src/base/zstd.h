#pragma once

#include <optional>

#include "base/bytes.h"

namespace isr {

/// One zstd frame with its content size, level 1.
Bytes zstd_compress(ByteView data);
/// The content of exactly one frame without a dictionary whose decoded size is
/// exactly `size`; nullopt for anything else. Allocates `size` bytes at most.
std::optional<Bytes> zstd_decompress(ByteView frame, std::size_t size);

}  // namespace isr
