#pragma once

#include "base/bytes.h"

namespace isr {

/// One zstd frame with its content size, level 1.
Bytes zstd_compress(ByteView data);
/// The content of exactly one frame without a dictionary whose decoded size is
/// exactly out.size(), decoded into `out`; false for anything else, and then `out`
/// holds nothing of use. Allocates nothing that the frame asks for.
bool zstd_decompress(ByteView frame, MutableBytes out);

}  // namespace isr
