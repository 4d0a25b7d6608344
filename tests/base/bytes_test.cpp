#include "base/bytes.h"

#include <catch2/catch.hpp>

#include "base/error.h"
#include "support/bytes.h"
#include "support/error_kind.h"

using namespace isr;

TEST_CASE("hex is encoded and decoded, and other characters are refused", "[base]") {
  CHECK(to_hex({}).empty());
  CHECK(to_hex(Bytes{0x00, 0x9a, 0xff}) == "009aff");
  CHECK((from_hex("009aFF") == Bytes{0x00, 0x9a, 0xff}));
  CHECK((from_hex("") == Bytes{}));
  for (const auto* text : {"0", "0g", "g0", "0x", " 0", "00 ", "-1", "/0", ":0", "@0", "`0"}) {
    CHECK_FALSE(from_hex(text).has_value());
  }
  CHECK(short_hex(Bytes{1, 2, 3, 4, 5, 6, 7}) == "010203040506");
  CHECK(short_hex(Bytes{1}) == "01");
}

TEST_CASE("a fixed value has exactly its size in hex", "[base]") {
  const std::string forty(40, 'a');
  CHECK(fixed_from_hex<Sha1>(forty).has_value());
  CHECK_FALSE(fixed_from_hex<Sha1>(forty + "aa").has_value());
  CHECK_FALSE(fixed_from_hex<Sha256>(forty).has_value());
}

TEST_CASE("base64 agrees with RFC 4648", "[base]") {
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, encoded] : vectors) {
    CHECK(to_base64(as_bytes(plain)) == encoded);
    CHECK((from_base64(encoded) == to_bytes(as_bytes(plain))));
  }
  CHECK((from_base64("+/+/") == Bytes{0xfb, 0xff, 0xbf}));
  for (std::size_t size = 0; size < 70; ++size) {
    const Bytes bytes = test::random_bytes(size, size);
    CHECK((from_base64(to_base64(bytes)) == bytes));
  }
}

TEST_CASE("base64 that is not canonical is refused", "[base]") {
  for (const auto* text :
       {"Zg",   "Zg=",  "Zm8",      "Z",    "Zm9vY",  // padding missing
        "Zh==", "Zm9=", "Zg==Zg==", "//==",           // bits set that padding cuts off; padding in the middle
        "====", "Z===", "=Zg=",     "Z=g=", "Zg==\n", "Zm 9", "Zm9v\n\n\n\n", "-_-_", "Zm9v====", "=", "===="}) {
    CAPTURE(text);
    CHECK_FALSE(from_base64(text).has_value());
  }
  CHECK_FALSE(from_base64(std::string_view("Zm9\0", 4)).has_value());
}

TEST_CASE("integers are little-endian and are read back as written", "[base]") {
  ByteWriter out;
  out.u8(0x01).u16(0x0302).u32(0x07060504).u64(0x0f0e0d0c0b0a0908).put(Bytes{0x10, 0x11});
  const Bytes bytes = out.take();
  REQUIRE(bytes.size() == 17);
  for (std::size_t i = 0; i < bytes.size(); ++i) CHECK(bytes[i] == i + 1);

  ByteReader in(bytes, "a test");
  CHECK(in.u8() == 0x01);
  CHECK(in.u16() == 0x0302);
  CHECK(in.u32() == 0x07060504);
  CHECK(in.u64() == 0x0f0e0d0c0b0a0908);
  CHECK_THROWS_AS(in.expect_end(), Error);
  CHECK((to_bytes(in.take(2)) == Bytes{0x10, 0x11}));
  CHECK_NOTHROW(in.expect_end());
  CHECK(in.take(0).empty());
}

TEST_CASE("a reader never reads past the end, and names the damaged data", "[base]") {
  const Bytes three{1, 2, 3};
  CHECK((test::kind_thrown([&] { ByteReader(three, "x").u32(); }) == ErrorKind::kCorrupt));
  CHECK((test::kind_thrown([&] { ByteReader(three, "x").u64(); }) == ErrorKind::kCorrupt));
  CHECK((test::kind_thrown([&] { ByteReader(three, "x").take(SIZE_MAX); }) == ErrorKind::kCorrupt));
  CHECK((test::kind_thrown([&] { ByteReader(three, "x").fixed<Sha1>(); }) == ErrorKind::kCorrupt));
  CHECK((test::kind_thrown([&] { ByteReader({}, "x").u8(); }) == ErrorKind::kCorrupt));
  CHECK_THROWS_WITH(ByteReader({}, "head 7").u16(), Catch::StartsWith("head 7: "));

  ByteReader in(three, "x");
  in.u16();
  CHECK_THROWS_AS(in.u16(), Error);
  CHECK(in.rest().size() == 1);  // a refused read takes nothing
}

TEST_CASE("is_zero looks at every byte", "[base]") {
  CHECK(is_zero({}));
  for (std::size_t size = 1; size < 40; ++size) {
    Bytes bytes(size);
    CHECK(is_zero(bytes));
    for (std::size_t i = 0; i < size; ++i) CHECK_FALSE(is_zero(test::flip_bit(bytes, 8 * i + 7)));
  }
}
