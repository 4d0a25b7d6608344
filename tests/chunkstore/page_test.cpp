#include <catch2/catch.hpp>

#include "chunkstore/object.h"
#include "support/bytes.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::kind_thrown;

constexpr std::size_t kCountOffset = kObjectHeaderSize + kNonceSize;

ChunkRef some_ref(std::uint64_t seed) {
  const Bytes noise = test::random_bytes(kRefSize, seed);
  ByteReader in(noise, "noise");
  ChunkRef ref;
  ref.cid = in.fixed<Cid>();
  ref.length = 1000 + in.u32() % 100'000;
  ref.key = in.fixed<Key>();
  ref.digest = in.fixed<Sha256>();
  ref.sha1 = in.fixed<Sha1>();
  return ref;
}

std::vector<ChunkRef> some_refs(std::size_t count) {
  std::vector<ChunkRef> refs;
  for (std::size_t i = 0; i < count; ++i) refs.push_back(some_ref(i));
  return refs;
}

std::vector<ChunkRef> filled_up(std::vector<ChunkRef> refs) {
  refs.resize(kReferencesPerPage);
  return refs;
}

Key secret() {
  Key key;
  key.value.fill(9);
  return key;
}

Bytes with_u32(Bytes bytes, std::size_t offset, std::uint32_t value) {
  const Bytes encoded = ByteWriter().u32(value).take();
  std::copy(encoded.begin(), encoded.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  return bytes;
}

bool refuses(const ChunkRef& ref, ByteView object) {
  return kind_thrown([&] { open_page(ref, object); }) == ErrorKind::kCorrupt;
}

}  // namespace

TEST_CASE("a page gives back its references in order", "[page]") {
  for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{255}, kReferencesPerPage}) {
    const auto refs = some_refs(count);
    const auto page = seal_page(refs, secret());
    CHECK(page.bytes.size() == kCountOffset + 4 + count * kRefSize + kTagSize);
    CHECK((open_page(page.ref, page.bytes) == filled_up(refs)));
    CHECK((seal_page(refs, secret()).bytes == page.bytes));
  }
}

TEST_CASE("pages with another order of references differ", "[page]") {
  auto refs = some_refs(2);
  const auto page = seal_page(refs, secret());
  std::swap(refs[0], refs[1]);
  CHECK((seal_page(refs, secret()).ref.cid != page.ref.cid));
}

TEST_CASE("zero references at the end are not stored", "[page]") {
  const auto refs = some_refs(3);
  auto longer = refs;
  longer.insert(longer.begin() + 1, ChunkRef{});
  const auto with_hole = seal_page(longer, secret());
  CHECK((open_page(with_hole.ref, with_hole.bytes) == filled_up(longer)));
  CHECK((seal_page(filled_up(longer), secret()).bytes == with_hole.bytes));
  CHECK(read_clear_refs(with_hole.bytes).size() == 4);
}

TEST_CASE("a page of zero references is itself a zero reference", "[page]") {
  const auto page = seal_page(std::vector<ChunkRef>(7), secret());
  CHECK(page.ref.is_zero());
  CHECK(page.bytes.empty());
  CHECK((open_page(page.ref, {}) == filled_up({})));
}

TEST_CASE("anybody can read the names in a page, without a key", "[page]") {
  auto refs = some_refs(5);
  refs[2] = {};
  const auto page = seal_page(refs, secret());
  const auto clear = read_clear_refs(page.bytes);
  REQUIRE(clear.size() == refs.size());
  for (std::size_t i = 0; i < refs.size(); ++i) {
    CHECK((clear[i].cid == refs[i].cid));
    CHECK(clear[i].length == refs[i].length);
  }
  const std::string_view text = as_text(page.bytes);
  CHECK(text.find(as_text(refs[0].cid.view())) != std::string_view::npos);
  CHECK(text.find(as_text(refs[0].key.view())) == std::string_view::npos);
  CHECK(text.find(as_text(refs[0].digest.view())) == std::string_view::npos);
  CHECK(text.find(as_text(refs[0].sha1.view())) == std::string_view::npos);
}

TEST_CASE("a changed bit anywhere in a page is detected, even in the clear halves", "[page]") {
  const auto page = seal_page(some_refs(2), secret());
  for (std::size_t bit = 0; bit < page.bytes.size() * 8; ++bit) {
    REQUIRE(refuses(page.ref, test::flip_bit(page.bytes, bit)));
  }
}

TEST_CASE("a page whose count does not match its length is refused", "[page]") {
  const auto page = seal_page(some_refs(3), secret());
  for (const std::uint32_t count : {0U, 1U, 2U, 4U, 257U, 0x7fffffffU, 0x80000000U, 0xffffffffU}) {
    const Bytes changed = with_u32(page.bytes, kCountOffset, count);
    CHECK(refuses(page.ref, changed));
    CHECK((kind_thrown([&] { read_clear_refs(changed); }) == ErrorKind::kCorrupt));
    // The raw length, too: 2^32 / 120 references would wrap around.
    const Bytes both = with_u32(changed, 8, count * static_cast<std::uint32_t>(kRefSize));
    CHECK(refuses(page.ref, both));
    CHECK((kind_thrown([&] { read_clear_refs(both); }) == ErrorKind::kCorrupt));
  }
}

TEST_CASE("names in a page that is cut, empty or of another type are not read", "[page]") {
  const auto page = seal_page(some_refs(3), secret());
  for (std::size_t size = 0; size < page.bytes.size(); size += 7) {
    const ByteView cut = ByteView(page.bytes).first(size);
    REQUIRE((kind_thrown([&] { read_clear_refs(cut); }) == ErrorKind::kCorrupt));
  }
  const auto chunk = seal_chunk(test::random_bytes(kChunkSize, 1), secret());
  CHECK((kind_thrown([&] { read_clear_refs(chunk.bytes); }) == ErrorKind::kCorrupt));
}

TEST_CASE("a reference with an impossible object length is refused", "[page]") {
  ByteWriter out;
  const ChunkRef ref = some_ref(1);
  write_ref(ref, out);
  REQUIRE(out.bytes().size() == kRefSize);
  ByteReader good(out.bytes(), "reference");
  CHECK((read_ref(good) == ref));
  for (const std::uint32_t length :
       {1U, static_cast<std::uint32_t>(kObjectOverhead), 0xffffffffU, static_cast<std::uint32_t>(kMaxObjectSize + 1)}) {
    const Bytes changed = with_u32(out.bytes(), Cid::kSize, length);
    ByteReader in(changed, "reference");
    CHECK((kind_thrown([&] { read_ref(in); }) == ErrorKind::kCorrupt));
  }
}

TEST_CASE("sealing more references than a page holds is a kBug", "[page]") {
  CHECK((kind_thrown([] { seal_page(std::vector<ChunkRef>(257), secret()); }) == ErrorKind::kBug));
}

}  // namespace isr
