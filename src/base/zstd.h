#pragma once

#include "base/bytes.h"

namespace isr {

/// One zstd frame with its content size, at level 1.
Bytes zstd_compress(ByteView data);
/// Decodes exactly one frame without a dictionary whose decoded size is exactly out.size(). Returns false for anything
/// else; the contents of `out` are then undefined. Allocates nothing that the frame asks for.
bool zstd_decompress(ByteView frame, MutableBytes out);

}  // namespace isr
