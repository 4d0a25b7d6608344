// The header of an untrusted frame is checked before anything is allocated: the size that it states must be the one
// that the caller expects. Decoding straight into a buffer of the final size needs no window, so a frame that asks for
// a huge window does not get one.
#include "base/zstd.h"

#include <fmt/format.h>
#include <zstd.h>

#include <memory>
#include <new>

#include "base/error.h"
#include "base/handle.h"

namespace isr {
namespace {

constexpr int kLevel = 1;
constexpr std::uint32_t kFrameMagic = 0xFD2FB528;  // excludes skippable frames and formats before 0.8

using CompressCtx = std::unique_ptr<ZSTD_CCtx, FreeWith<ZSTD_freeCCtx>>;
using DecompressCtx = std::unique_ptr<ZSTD_DCtx, FreeWith<ZSTD_freeDCtx>>;

template <class T>
T* allocated(T* context) {
  if (context == nullptr) throw std::bad_alloc();
  return context;
}

bool has_frame_magic(ByteView frame) {
  return frame.size() >= 4 &&
         (frame[0] | frame[1] << 8U | frame[2] << 16U | static_cast<std::uint32_t>(frame[3]) << 24U) == kFrameMagic;
}

}  // namespace

Bytes zstd_compress(ByteView data) {
  thread_local const CompressCtx ctx(allocated(ZSTD_createCCtx()));
  Bytes out(ZSTD_compressBound(data.size()));
  const std::size_t size = ZSTD_compressCCtx(ctx.get(), out.data(), out.size(), data.data(), data.size(), kLevel);
  if (ZSTD_isError(size) != 0) {
    throw Error(ErrorKind::kBug, fmt::format("zstd: {} bytes: {}", data.size(), ZSTD_getErrorName(size)));
  }
  out.resize(size);
  return out;
}

bool zstd_decompress(ByteView frame, MutableBytes out) {
  if (!has_frame_magic(frame)) return false;
  const unsigned long long content_size = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (content_size == ZSTD_CONTENTSIZE_UNKNOWN || content_size == ZSTD_CONTENTSIZE_ERROR) return false;
  if (content_size != out.size()) return false;
  if (ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size()) return false;
  if (ZSTD_getDictID_fromFrame(frame.data(), frame.size()) != 0) return false;
  thread_local const DecompressCtx ctx(allocated(ZSTD_createDCtx()));
  return ZSTD_decompressDCtx(ctx.get(), out.data(), out.size(), frame.data(), frame.size()) == out.size();
}

}  // namespace isr
