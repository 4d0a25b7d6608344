#include <catch2/catch.hpp>

#include "account/account.h"
#include "base/file.h"
#include "base/text.h"
#include "support/error_kind.h"

using namespace isr;
using test::kind_thrown;

namespace {

ParcelEntry parcel(const std::string& id_digit, const std::string& name, std::uint32_t epoch, std::uint8_t key_byte,
                   int keys = 1) {
  ParcelEntry entry;
  for (int i = 0; i < 16; ++i) entry.id += id_digit;
  entry.name = name;
  for (int i = 0; i < keys; ++i) std::ranges::fill(entry.epoch_keys[epoch++].mutable_view(), key_byte++);
  return entry;
}

Profile two_parcels() { return {{parcel("4f", "work", 1, 7), parcel("a0", "Mail.2", 3, 8, 2)}}; }

std::optional<ErrorKind> parsing(const std::string& text) {
  return kind_thrown([&] { parse_profile(as_bytes(text)); });
}

}  // namespace

TEST_CASE("a profile has exactly the bytes of its golden file", "[account]") {
  const Bytes golden = read_file(std::string(ISR_GOLDEN_DIR) + "/profile/v1", 4096);
  CHECK((encode_profile(two_parcels()) == golden));
  const Profile profile = parse_profile(golden);
  REQUIRE(profile.parcels.size() == 2);
  CHECK(profile.parcels[1].name == "Mail.2");
  CHECK(profile.parcels[1].epoch() == 4);
  CHECK(profile.parcels[0].chain() == "parcels/4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f");
}

TEST_CASE("a profile with anything unexpected is refused", "[account]") {
  const std::string good(as_text(encode_profile({{parcel("4f", "work", 1, 7)}})));
  REQUIRE_FALSE(parsing(good));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return parsing(text);
  };
  CHECK(with("isr1-profile", "isr2-profile") == ErrorKind::kUnsupported);
  CHECK(with("work", "../etc") == ErrorKind::kCorrupt);
  CHECK(with("4f4f", "4F4F") == ErrorKind::kCorrupt);
  CHECK(with("4f4f", "4f4g") == ErrorKind::kCorrupt);
  CHECK(with("\"first_epoch\":1", "\"first_epoch\":0") == ErrorKind::kCorrupt);
  CHECK(with("0707", "") == ErrorKind::kCorrupt);
  CHECK(parsing(good + "x") == ErrorKind::kCorrupt);
  CHECK(parsing("") == ErrorKind::kCorrupt);
  CHECK(kind_thrown([] {
          parse_profile(encode_profile({{parcel("4f", "work", 1, 7), parcel("4f", "mail", 1, 7)}}));
        }) == ErrorKind::kCorrupt);
  CHECK(kind_thrown([] {
          parse_profile(encode_profile({{parcel("4f", "work", 1, 7), parcel("a0", "work", 1, 7)}}));
        }) == ErrorKind::kCorrupt);
}

TEST_CASE("names that a shell, a terminal or a file system could misread are refused as parcel names", "[account]") {
  for (const char* good : {"work", "a", "Debian-12.1_x", "0", "common", "com10"}) {
    INFO(good);
    CHECK_NOTHROW(check_parcel_name(good));
  }
  const std::string long_name(65, 'a');
  for (const std::string& bad :
       {std::string(), long_name, std::string("."), std::string(".."), std::string("a/b"), std::string("-a"),
        std::string("a\0b", 3), std::string("a\nb"), std::string("\x1b[2J"), std::string("caf\xc3\xa9"),
        std::string("cafe\xcc\x81"), std::string("a\xe2\x80\x8f"), std::string("CON"), std::string("nul.txt"),
        std::string("lpt1"), std::string("a."), std::string("a b")}) {
    INFO(escaped(bad));
    CHECK(kind_thrown([&] { check_parcel_name(bad); }) == ErrorKind::kUsage);
  }
}

TEST_CASE("a refused name is escaped in the message", "[account]") {
  try {
    check_parcel_name("\x1b[2Jx\xe2\x80\x8f");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(std::string(error.what()) == "\"\\x1b[2Jx\\xe2\\x80\\x8f\" cannot be a parcel's name");
  }
}

TEST_CASE("an unknown parcel is refused with the most similar name as a hint", "[account]") {
  CHECK(find_parcel(two_parcels(), "work").id.substr(0, 2) == "4f");
  try {
    find_parcel(two_parcels(), "wrok");
    FAIL("found");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kNotFound);
    REQUIRE_FALSE(error.hints().empty());
    CHECK(error.hints()[0] == "did you mean \"work\"?");
  }
}

TEST_CASE("the most similar word is suggested only if it is similar", "[account]") {
  CHECK(nearest("resum", {"reset", "resume", "repo"}) == "resume");
  CHECK(nearest("lz", {"ls", "log"}) == "ls");
  CHECK(nearest("frobnicate", {"ls", "log"}).empty());
  CHECK(nearest(std::string(100'000, 'a'), {"ls"}).empty());
}
