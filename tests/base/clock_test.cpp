#include "base/clock.h"

#include <catch2/catch.hpp>

#include "base/error.h"
#include "support/error_kind.h"

using namespace isr;

namespace {

WallTime at(std::int64_t seconds) { return WallTime(std::chrono::seconds(seconds)); }

}  // namespace

TEST_CASE("RFC 3339 times are formatted and parsed", "[base][clock]") {
  const std::pair<std::int64_t, const char*> known[] = {{0, "1970-01-01T00:00:00Z"},
                                                        {-1, "1969-12-31T23:59:59Z"},
                                                        {951'782'400, "2000-02-29T00:00:00Z"},
                                                        {1'795'406'780, "2026-11-23T04:06:20Z"},
                                                        {2'147'483'648, "2038-01-19T03:14:08Z"},
                                                        {253'402'300'799, "9999-12-31T23:59:59Z"}};
  for (const auto& [seconds, text] : known) {
    CHECK(to_rfc3339(at(seconds)) == text);
    CHECK((from_rfc3339(text) == at(seconds)));
  }
}

TEST_CASE("a text in any other form is refused", "[base][clock]") {
  for (const auto* text : {"",
                           "2026-11-23",
                           "2026-11-23T04:06:20",
                           "2026-11-23T04:06:20z",
                           "2026-11-23 04:06:20Z",
                           "2026-11-23T04:06:20.5Z",
                           "2026-11-23T04:06:20+00:00",
                           " 2026-11-23T04:06:20Z",
                           "2026-11-23T04:06:20Z ",
                           "2026-13-23T04:06:20Z",
                           "2026-00-23T04:06:20Z",
                           "2026-02-29T04:06:20Z",
                           "2026-11-00T04:06:20Z",
                           "2026-11-31T04:06:20Z",
                           "2026-11-23T24:00:00Z",
                           "2026-11-23T04:60:20Z",
                           "2026-11-23T04:06:60Z",
                           "2026-11-23T-4:06:20Z",
                           "+026-11-23T04:06:20Z",
                           "2026-1a-23T04:06:20Z",
                           "2026/11/23T04:06:20Z"}) {
    CAPTURE(text);
    CHECK_FALSE(from_rfc3339(text).has_value());
  }
}

TEST_CASE("a year of more than four digits is refused", "[base][clock]") {
  CHECK((test::kind_thrown([] { to_rfc3339(at(253'402'300'800)); }) == ErrorKind::kCorrupt));
  CHECK((test::kind_thrown([] { to_rfc3339(WallTime::max()); }) == ErrorKind::kCorrupt));
  CHECK((test::kind_thrown([] { to_rfc3339(WallTime::min()); }) == ErrorKind::kCorrupt));
}

TEST_CASE("the clock tells a plausible time", "[base][clock]") {
  CHECK(wall_now() > at(1'700'000'000));
  CHECK(to_rfc3339(wall_now()).size() == 20);
}
