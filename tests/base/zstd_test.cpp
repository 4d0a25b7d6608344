#include "base/zstd.h"

#include <zstd.h>

#include <catch2/catch.hpp>
#include <memory>

#include "base/crypto.h"
#include "base/handle.h"
#include "support/bytes.h"

using namespace isr;

namespace {

// A frame by hand, RFC 8878 §3.1.1: magic, descriptor, [dictionary id], content size, one last block.
constexpr std::uint8_t kSingleSegment = 0x20;
enum class Block : std::uint8_t { kRaw = 0, kRle = 1 };

Bytes hand_made_frame(std::uint8_t content_size, Block type, std::uint32_t block_size, ByteView block,
                      std::optional<std::uint8_t> dictionary = {}) {
  ByteWriter out;
  out.u32(0xFD2FB528).u8(kSingleSegment | (dictionary ? 1 : 0));
  if (dictionary) out.u8(*dictionary);
  const std::uint32_t header = block_size << 3U | static_cast<std::uint32_t>(type) << 1U | 1U;
  out.u8(content_size).u16(static_cast<std::uint16_t>(header)).u8(static_cast<std::uint8_t>(header >> 16U));
  return out.put(block).take();
}

/// What zstd_decompress() makes of a frame; nullopt when it refuses it.
std::optional<Bytes> decompressed(ByteView frame, std::size_t size) {
  Bytes out(size);
  return zstd_decompress(frame, out) ? std::optional(out) : std::nullopt;
}

Bytes joined(ByteView a, ByteView b) { return ByteWriter().put(a).put(b).take(); }

Bytes skippable_frame(std::uint32_t size) { return ByteWriter().u32(0x184D2A50).u32(size).put(Bytes(size)).take(); }

}  // namespace

TEST_CASE("zstd decompresses what it has compressed", "[base][zstd]") {
  for (const std::size_t size : {0, 1, 100, 4096, 131072, 1'000'000}) {
    for (const Bytes& data : {Bytes(size, 'a'), test::random_bytes(size, size)}) {
      const Bytes frame = zstd_compress(data);
      CHECK((decompressed(frame, size) == data));
      CHECK(ZSTD_getFrameContentSize(frame.data(), frame.size()) == size);
    }
  }
  CHECK(zstd_compress(Bytes(131072, 'a')).size() < 100);
}

TEST_CASE("equal data gives equal frames, whatever was compressed before", "[base][zstd]") {
  Bytes data = test::random_bytes(131072, 1);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] &= 0x1f;
  const Bytes frame = zstd_compress(data);
  for (std::size_t i = 0; i < 50; ++i) {
    (void)zstd_compress(test::random_bytes(1000 * i, i));
    REQUIRE((zstd_compress(data) == frame));
  }
}

TEST_CASE("a frame of another size is refused", "[base][zstd]") {
  const Bytes frame = zstd_compress(Bytes(1000, 'a'));
  for (const std::size_t size : {0, 1, 999, 1001, 1 << 20}) CHECK_FALSE(decompressed(frame, size).has_value());
}

TEST_CASE("a decompression bomb is refused without unpacking it", "[base][zstd]") {
  const Bytes bomb = zstd_compress(Bytes(64U << 20U));
  REQUIRE(bomb.size() < 8192);
  CHECK_FALSE(decompressed(bomb, 131072).has_value());

  SECTION("even when its header lies") {
    const Bytes letter{'x'};
    CHECK((decompressed(hand_made_frame(5, Block::kRle, 5, letter), 5) == Bytes(5, 'x')));
    CHECK_FALSE(decompressed(hand_made_frame(5, Block::kRle, 131072, letter), 5).has_value());
    CHECK_FALSE(decompressed(hand_made_frame(5, Block::kRle, 6, letter), 5).has_value());
    CHECK_FALSE(decompressed(hand_made_frame(5, Block::kRle, 4, letter), 5).has_value());
  }
}

TEST_CASE("exactly one frame is accepted, with nothing beside it", "[base][zstd]") {
  const Bytes frame = zstd_compress(as_bytes("hello"));
  const Bytes empty = zstd_compress({});
  REQUIRE(decompressed(frame, 5).has_value());
  CHECK_FALSE(decompressed(joined(frame, frame), 10).has_value());
  CHECK_FALSE(decompressed(joined(frame, frame), 5).has_value());
  CHECK_FALSE(decompressed(joined(frame, empty), 5).has_value());
  CHECK_FALSE(decompressed(joined(empty, frame), 5).has_value());
  CHECK_FALSE(decompressed(joined(frame, Bytes{0}), 5).has_value());
  CHECK_FALSE(decompressed(joined(skippable_frame(4), frame), 5).has_value());
  CHECK_FALSE(decompressed(joined(frame, skippable_frame(4)), 5).has_value());
  CHECK_FALSE(decompressed(skippable_frame(0), 0).has_value());
  CHECK_FALSE(decompressed(skippable_frame(100), 0).has_value());
  CHECK((decompressed(empty, 0) == Bytes{}));
}

TEST_CASE("a frame that names a dictionary is refused", "[base][zstd]") {
  const Bytes hello = to_bytes(as_bytes("hello"));
  REQUIRE((decompressed(hand_made_frame(5, Block::kRaw, 5, hello), 5) == hello));
  CHECK_FALSE(decompressed(hand_made_frame(5, Block::kRaw, 5, hello, 7), 5).has_value());
}

TEST_CASE("a frame that does not say its size is refused", "[base][zstd]") {
  const std::unique_ptr<ZSTD_CCtx, FreeWith<ZSTD_freeCCtx>> ctx(ZSTD_createCCtx());
  ZSTD_CCtx_setParameter(ctx.get(), ZSTD_c_contentSizeFlag, 0);
  Bytes frame(1000);
  frame.resize(ZSTD_compress2(ctx.get(), frame.data(), frame.size(), "hello", 5));
  CHECK_FALSE(decompressed(frame, 5).has_value());
}

TEST_CASE("damaged and cut frames are refused and never crash", "[base][zstd]") {
  Bytes data = test::random_bytes(3000, 1);
  for (auto& byte : data) byte &= 0x0f;
  const Bytes frame = zstd_compress(data);
  for (std::size_t size = 0; size < frame.size(); ++size) {
    CHECK_FALSE(decompressed(ByteView(frame).first(size), data.size()).has_value());
  }
  for (std::size_t bit = 0; bit < 8 * frame.size(); ++bit) {
    const auto out = decompressed(test::flip_bit(frame, bit), data.size());
    CHECK((!out.has_value() || out->size() == data.size()));  // zstd has no checksum here; GCM guards the content
  }
  CHECK_FALSE(decompressed({}, 0).has_value());
  CHECK_FALSE(decompressed(test::random_bytes(100, 3), 100).has_value());
}
