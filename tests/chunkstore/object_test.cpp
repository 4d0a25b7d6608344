#include "chunkstore/object.h"

#include <zstd.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "base/whole_file.h"
#include "support/bytes.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::kind_thrown;

const fs::path kGolden = fs::path(ISR_GOLDEN_DIR) / "object";

Key test_secret() {
  Key secret;
  for (std::size_t i = 0; i < Key::kSize; ++i) secret.value[i] = static_cast<std::uint8_t>(i);
  return secret;
}

/// Half noise, half one byte: compresses to about half.
Bytes compressible_chunk() {
  Bytes chunk = test::random_bytes(kChunkSize, /*seed=*/3);
  std::fill(chunk.begin() + kChunkSize / 2, chunk.end(), std::uint8_t{0x5a});
  return chunk;
}

Bytes opened(const ChunkRef& ref, ByteView object) {
  Bytes out(kChunkSize, 0xee);
  open_chunk(ref, object, out);
  return out;
}

/// A reference to `object` as whoever holds the key would write it.
ChunkRef ref_to(const Key& key, ByteView object, ByteView plaintext) {
  ChunkRef ref;
  ref.cid = cid_of(object);
  ref.length = static_cast<std::uint32_t>(object.size());
  ref.key = key;
  ref.digest = sha256(plaintext);
  return ref;
}

/// An object with a good tag whatever is in it.
Bytes sealed_by_hand(const Key& key, ByteView header, ByteView payload) {
  Bytes body(payload.size());
  const auto tag = gcm_seal(key, Nonce{}, {header}, payload, body);
  return ByteWriter().put(header).put(Nonce{}.view()).put(body).put(tag).take();
}

Bytes header_bytes(std::uint8_t type, std::uint8_t codec, std::uint32_t raw_length) {
  return ByteWriter().put(as_bytes("ISR1")).u8(type).u8(codec).u16(0).u32(raw_length).take();
}

Bytes compress_whole(ByteView data) {
  Bytes out(ZSTD_compressBound(data.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), data.data(), data.size(), 1));
  return out;
}

bool refuses(const ChunkRef& ref, ByteView object) {
  return kind_thrown([&] { opened(ref, object); }) == ErrorKind::kCorrupt;
}

}  // namespace

TEST_CASE("a chunk comes back as it was sealed", "[object]") {
  const Bytes noise = test::random_bytes(kChunkSize, 1);
  const Bytes text = compressible_chunk();
  for (const Bytes& plaintext : {noise, text, Bytes(kChunkSize, 1)}) {
    const SealedObject sealed = seal_chunk(plaintext, test_secret());
    CHECK(sealed.ref.length == sealed.bytes.size());
    CHECK((sealed.ref.cid == cid_of(sealed.bytes)));
    CHECK((sealed.ref.digest == sha256(plaintext)));
    CHECK((sealed.ref.sha1 == sha1(plaintext)));
    CHECK((opened(sealed.ref, sealed.bytes) == plaintext));
  }
  CHECK(seal_chunk(noise, test_secret()).bytes.size() == kMaxObjectSize);
  CHECK(seal_chunk(text, test_secret()).bytes.size() < kChunkSize * 6 / 10);
}

TEST_CASE("a chunk that hardly compresses is stored uncompressed", "[object]") {
  Bytes plaintext = test::random_bytes(kChunkSize, 2);
  std::fill(plaintext.begin(), plaintext.begin() + kChunkSize / 32, std::uint8_t{1});
  CHECK(seal_chunk(plaintext, test_secret()).bytes.size() == kMaxObjectSize);
}

TEST_CASE("an all-zero chunk is a reference without an object", "[object]") {
  const SealedObject sealed = seal_chunk(Bytes(kChunkSize), test_secret());
  CHECK(sealed.ref.is_zero());
  CHECK((sealed.ref == ChunkRef{}));
  CHECK(sealed.bytes.empty());
  CHECK((opened(sealed.ref, {}) == Bytes(kChunkSize)));
}

TEST_CASE("sealing the same bytes twice gives the same object, but another one in another domain", "[object]") {
  const Bytes plaintext = compressible_chunk();
  const auto first = seal_chunk(plaintext, test_secret());
  const auto second = seal_chunk(plaintext, test_secret());
  Key other = test_secret();
  other.value[0] ^= 1;
  const auto third = seal_chunk(plaintext, other);
  CHECK((first.bytes == second.bytes));
  CHECK((first.ref == second.ref));
  CHECK((first.ref.key != third.ref.key));
  CHECK((first.ref.cid != third.ref.cid));
  CHECK((first.ref.digest == third.ref.digest));
}

TEST_CASE("key and nonce are derived as the format says", "[object]") {
  const Bytes plaintext = test::random_bytes(kChunkSize, 1);
  const auto sealed = seal_chunk(plaintext, test_secret());
  const std::uint8_t type = 1;
  const Key key =
      hmac_sha256(test_secret().view(), {as_bytes("isr1/key"), ByteView(&type, 1), sha256(plaintext).view()});
  CHECK((sealed.ref.key == key));
  const ByteView header = ByteView(sealed.bytes).first(kObjectHeaderSize);
  // The payload's hash, so another payload of the same plaintext has another nonce.
  const auto nonce_of = [&](ByteView payload) {
    const Key full = hmac_sha256(key.view(), {as_bytes("isr1/nonce"), header, sha256(payload).view()});
    return Bytes(full.value.begin(), full.value.begin() + kNonceSize);
  };
  const ByteView nonce = ByteView(sealed.bytes).subspan(kObjectHeaderSize, kNonceSize);
  CHECK((to_bytes(nonce) == nonce_of(plaintext)));
  CHECK((to_bytes(nonce) != nonce_of(compress_whole(plaintext))));
}

TEST_CASE("a changed bit anywhere in an object is detected", "[object]") {
  for (const Bytes& plaintext : {compressible_chunk(), test::random_bytes(kChunkSize, 1)}) {
    const auto sealed = seal_chunk(plaintext, test_secret());
    const std::size_t bits = sealed.bytes.size() * 8;
    const std::size_t ends = (kObjectHeaderSize + kNonceSize + 4) * 8;
    for (std::size_t bit = 0; bit < ends; ++bit) {  // header and nonce, and the tag
      REQUIRE(refuses(sealed.ref, test::flip_bit(sealed.bytes, bit)));
      REQUIRE(refuses(sealed.ref, test::flip_bit(sealed.bytes, bits - 1 - bit)));
    }
    for (std::size_t bit = ends; bit < bits; bit += 9973) {
      REQUIRE(refuses(sealed.ref, test::flip_bit(sealed.bytes, bit)));
    }
  }
}

TEST_CASE("a changed reference does not open its object", "[object]") {
  const auto sealed = seal_chunk(compressible_chunk(), test_secret());
  ChunkRef ref = sealed.ref;
  SECTION("key") { ref.key.value[5] ^= 1; }
  SECTION("digest") { ref.digest.value[5] ^= 1; }
  SECTION("length") { ref.length ^= 1; }
  SECTION("impossible length") { ref.length = 0xffffffff; }
  CHECK(refuses(ref, sealed.bytes));
}

TEST_CASE("a refused object leaves no plaintext in the buffer", "[object]") {
  const auto sealed = seal_chunk(test::random_bytes(kChunkSize, 1), test_secret());
  Bytes out(kChunkSize);
  ChunkRef ref = sealed.ref;
  ref.digest.value[0] ^= 1;
  CHECK((kind_thrown([&] { open_chunk(ref, sealed.bytes, out); }) == ErrorKind::kCorrupt));
  CHECK(is_zero(out));
  const Bytes damaged = test::flip_bit(sealed.bytes, 8 * 1000);
  CHECK((kind_thrown([&] { open_chunk(sealed.ref, damaged, out); }) == ErrorKind::kCorrupt));
  CHECK(is_zero(out));
}

TEST_CASE("bytes that are not an object are refused at every length", "[object]") {
  const auto sealed = seal_chunk(compressible_chunk(), test_secret());
  const auto with_length_of = [&](ByteView object) {
    ChunkRef ref = sealed.ref;
    ref.length = static_cast<std::uint32_t>(object.size());
    return ref;
  };
  for (const std::size_t size : {std::size_t{1}, kObjectHeaderSize, kObjectOverhead - 1, kObjectOverhead,
                                 sealed.bytes.size() - kTagSize, sealed.bytes.size() - 1}) {
    const Bytes cut(sealed.bytes.begin(), sealed.bytes.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(refuses(with_length_of(cut), cut));
    CHECK(refuses(sealed.ref, cut));
  }
  CHECK(refuses(sealed.ref, {}));
  const Bytes huge(kMaxObjectSize + 1);
  CHECK(refuses(with_length_of(huge), huge));
  Bytes longer = sealed.bytes;
  longer.push_back(0);
  CHECK(refuses(with_length_of(longer), longer));
}

TEST_CASE("a good tag does not excuse a bad header or payload", "[object]") {
  const Key key = test_secret();
  const Bytes plaintext(kChunkSize, 0x5a);
  const Bytes frame = compress_whole(plaintext);
  const Bytes good_header = header_bytes(1, 1, kChunkSize);
  const auto refused = [&](ByteView header, ByteView payload) {
    const Bytes object = sealed_by_hand(key, header, payload);
    return refuses(ref_to(key, object, plaintext), object);
  };
  REQUIRE_FALSE(refused(good_header, frame));

  SECTION("magic, type, codec, reserved") {
    for (const std::size_t byte : {0, 1, 2, 3, 4, 5, 6, 7}) {
      for (std::size_t bit = 0; bit < 8; ++bit) REQUIRE(refused(test::flip_bit(good_header, byte * 8 + bit), frame));
    }
  }
  SECTION("raw length") {
    for (const std::uint32_t length : {0U, 1U, 131071U, 131073U, 0x80000000U, 0xffffffffU}) {
      CHECK(refused(header_bytes(1, 1, length), frame));
    }
  }
  SECTION("a raw payload that is not a chunk") { CHECK(refused(header_bytes(1, 0, kChunkSize), frame)); }
  SECTION("a bomb: a frame that decodes to more than a chunk") {
    CHECK(refused(good_header, compress_whole(Bytes(kChunkSize * 64, 0x5a))));
  }
  SECTION("a frame that decodes to less") { CHECK(refused(good_header, compress_whole(Bytes(kChunkSize - 1, 0x5a)))); }
  SECTION("two frames") {
    const Bytes half = compress_whole(Bytes(kChunkSize / 2, 0x5a));
    CHECK(refused(good_header, ByteWriter().put(half).put(half).take()));
    CHECK(refused(good_header, ByteWriter().put(frame).put(frame).take()));
  }
  SECTION("skippable frames") {
    const Bytes skip = ByteWriter().u32(0x184D2A50).u32(4).u32(0).take();
    CHECK(refused(good_header, ByteWriter().put(skip).put(frame).take()));
    CHECK(refused(good_header, ByteWriter().put(frame).put(skip).take()));
    CHECK(refused(good_header, skip));
  }
  SECTION("a dictionary id") {
    // Frame header: magic, descriptor (8-byte size, 1-byte dictionary id), window, id, size.
    Bytes with_id = ByteWriter().u32(0xFD2FB528).u8(0xC1).u8(0x60).u8(7).u64(kChunkSize).take();
    with_id.insert(with_id.end(), {0x01, 0x00, 0x00});
    CHECK(refused(good_header, with_id));
  }
  SECTION("noise") { CHECK(refused(good_header, test::random_bytes(500, 9))); }
  SECTION("the right form with other content") { CHECK(refused(good_header, compress_whole(Bytes(kChunkSize, 0x5b)))); }
}

TEST_CASE("a page does not pass as a chunk, nor a chunk as a page", "[object]") {
  const auto chunk = seal_chunk(compressible_chunk(), test_secret());
  const std::vector<ChunkRef> refs(3, chunk.ref);
  const auto page = seal_page(refs, test_secret());
  CHECK(refuses(page.ref, page.bytes));
  CHECK((kind_thrown([&] { open_page(chunk.ref, chunk.bytes); }) == ErrorKind::kCorrupt));
}

TEST_CASE("only whole chunks are sealed", "[object]") {
  CHECK((kind_thrown([] { seal_chunk(Bytes(100), test_secret()); }) == ErrorKind::kBug));
}

// The bytes of version 1. The zstd object is only opened: another zstd version
// may compress otherwise.
TEST_CASE("objects of format 1 can always be opened", "[object]") {
  const Bytes refs = read_file(kGolden / "refs-v1.bin", 4096);
  ByteReader in(refs, "golden references");
  const ChunkRef zstd_ref = read_ref(in);
  const ChunkRef page_ref = read_ref(in);
  const ChunkRef raw_ref = read_ref(in);
  in.expect_end();
  CHECK((opened(zstd_ref, read_file(kGolden / "chunk-zstd-v1.bin", kMaxObjectSize)) == Bytes(kChunkSize, 0x5a)));
  const Bytes page = read_file(kGolden / "page-v1.bin", kMaxObjectSize);
  const auto in_page = open_page(page_ref, page);
  CHECK((in_page[0] == zstd_ref));
  CHECK(in_page[1].is_zero());
  CHECK((in_page[2] == raw_ref));
  CHECK((seal_page(in_page, test_secret()).bytes == page));
  CHECK((seal_chunk(test::random_bytes(kChunkSize, 1), test_secret()).ref == raw_ref));
}

// Writes the files that the test above reads; for a new version of the format only.
TEST_CASE("write golden objects", "[.write-golden]") {
  const auto zstd = seal_chunk(Bytes(kChunkSize, 0x5a), test_secret());
  const auto raw = seal_chunk(test::random_bytes(kChunkSize, 1), test_secret());
  const std::vector<ChunkRef> refs{zstd.ref, {}, raw.ref, {}};
  const auto page = seal_page(refs, test_secret());
  ByteWriter out;
  for (const auto& ref : {zstd.ref, page.ref, raw.ref}) write_ref(ref, out);
  replace_file(kGolden / "refs-v1.bin", out.bytes(), 0644);
  replace_file(kGolden / "chunk-zstd-v1.bin", zstd.bytes, 0644);
  replace_file(kGolden / "page-v1.bin", page.bytes, 0644);
}

}  // namespace isr
