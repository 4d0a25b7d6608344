#include "image/boot_pack.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "image/tree.h"
#include "support/bytes.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::kind_thrown;

BootHead sample() {
  BootHead head;
  head.images = {{"disk", {}}, {"memory", {}}};
  head.images[0].root.value.fill(0x11);
  head.images[1].root.value.fill(0x22);
  head.order.pages = {{1, 70'000}, {0, 3}, kUnusedPlace, {1, 5}};
  head.order.chunks = {{1, 2187}, {0, 0}};
  return head;
}

std::uint64_t pack_size(const BootHead& head) {
  return encode_boot_head(head).size() + head.order.pages.size() * kBootPageSize;
}

std::optional<ErrorKind> parsing(const Bytes& head, std::uint64_t size) {
  return kind_thrown([&] { parse_boot_head(head, size); });
}

Bytes with_number(Bytes head, std::size_t at, std::uint8_t value) {
  head.at(at) = value;
  return head;
}

}  // namespace

TEST_CASE("the head of a boot pack has exactly the bytes of its golden file", "[image]") {
  const Bytes golden = read_file(fs::path(ISR_GOLDEN_DIR) / "boot-pack" / "v2", 1U << 20U);
  CHECK((encode_boot_head(sample()) == golden));
  CHECK(boot_head_size(ByteView(golden).first(kBootPageSize)) == golden.size());
  const BootHead head = parse_boot_head(golden, pack_size(sample()));
  CHECK((head.images == sample().images));
  CHECK((head.order.pages == sample().order.pages));
  CHECK((head.order.chunks == sample().order.chunks));
}

TEST_CASE("a boot pack names images up to the documented number and name length, and no more", "[image]") {
  BootHead head;
  for (char last = 'a'; head.images.size() < kMaxBootImages; ++last) {
    head.images.push_back({std::string(kMaxBootImageName - 1, 'x') + last, {}});
  }
  head.order.pages = {{kMaxBootImages - 1, 5}};
  CHECK((parse_boot_head(encode_boot_head(head), pack_size(head)).images == head.images));
  SECTION("a longer name") { head.images[0].name += 'x'; }
  SECTION("one image more") { head.images.push_back({"y", {}}); }
  CHECK(kind_thrown([&] { encode_boot_head(head); }) == ErrorKind::kBug);
}

TEST_CASE("a boot pack's head with anything unexpected is refused", "[image]") {
  const Bytes good = encode_boot_head(sample());
  const std::uint64_t size = pack_size(sample());
  REQUIRE_FALSE(parsing(good, size));
  CHECK(parsing(good, size - 1) == ErrorKind::kCorrupt);
  CHECK(parsing(good, size + kBootPageSize) == ErrorKind::kCorrupt);
  CHECK(parsing(with_number(good, 0, 'X'), size) == ErrorKind::kCorrupt);
  CHECK(parsing(with_number(good, 4, 1), size) == ErrorKind::kCorrupt);
  CHECK(parsing(with_number(good, 8, 17), size) == ErrorKind::kCorrupt);
  CHECK(parsing(with_number(good, 15, 0xff), size) == ErrorKind::kCorrupt);   // 4 billion pages
  CHECK(parsing(with_number(good, 19, 0xff), size) == ErrorKind::kCorrupt);   // 4 billion chunks
  CHECK(parsing(with_number(good, 20, 0), size) == ErrorKind::kCorrupt);      // no name
  CHECK(parsing(with_number(good, 30, 'x'), size) == ErrorKind::kCorrupt);    // behind the name's end
  CHECK(parsing(with_number(good, 148, 2), size) == ErrorKind::kCorrupt);     // of an image that it has not
  CHECK(parsing(with_number(good, 155, 0xff), size) == ErrorKind::kCorrupt);  // beyond any image
  CHECK(parsing(with_number(good, 172, 2), size) == ErrorKind::kCorrupt);     // no page of an image, but not unused
  Bytes unused_chunk = good;
  std::fill_n(unused_chunk.begin() + 180, 8, std::uint8_t{0xff});
  CHECK(parsing(unused_chunk, size) == ErrorKind::kCorrupt);
  CHECK(parsing(with_number(good, 4000, 1), size) == ErrorKind::kCorrupt);  // in the padding
  CHECK(parsing(Bytes(good.begin(), good.begin() + 100), size) == ErrorKind::kCorrupt);
  CHECK(kind_thrown([&] { boot_head_size(ByteView(good).first(10)); }) == ErrorKind::kCorrupt);
}

TEST_CASE("the largest boot pack can be written and read", "[image]") {
  BootHead head;
  for (std::size_t i = 0; i < kMaxBootImages; ++i) head.images.push_back({std::string(32, 'a'), {}});
  head.order.pages.assign(kMaxBootPages, {15, kMaxImageSize / kBootPageSize - 1});
  head.order.chunks.assign(kMaxBootChunks, {15, kMaxImageSize / kChunkSize - 1});
  const Bytes bytes = encode_boot_head(head);
  CHECK(bytes.size() <= kMaxBootHeadSize);
  CHECK(boot_head_size(bytes) == bytes.size());
  CHECK((parse_boot_head(bytes, pack_size(head)).order.chunks == head.order.chunks));
}

}  // namespace isr
