#include "repository/http_message.h"

#include <catch2/catch.hpp>

#include "base/error.h"
#include "support/error_kind.h"

namespace isr {

TEST_CASE("HTTP dates are read in exactly the form in which they are written", "[http]") {
  const std::string text = "Mon, 23 Nov 2026 04:06:20 GMT";
  const auto time = from_http_date(text);
  REQUIRE(time.has_value());
  CHECK(to_rfc3339(*time) == "2026-11-23T04:06:20Z");
  CHECK(to_http_date(*time) == text);
  CHECK(to_http_date(*from_rfc3339("2024-02-29T23:59:59Z")) == "Thu, 29 Feb 2024 23:59:59 GMT");
  CHECK(to_http_date(*from_rfc3339("1970-01-01T00:00:00Z")) == "Thu, 01 Jan 1970 00:00:00 GMT");
  for (const std::string bad :
       {"", "Tue, 23 Nov 2026 04:06:20 GMT", "Mon, 23 nov 2026 04:06:20 GMT", "Mon, 23 Nov 2026 24:06:20 GMT",
        "Mon, 31 Nov 2026 04:06:20 GMT", "Mon, 23 Nov 2026 04:06:20 UTC", "Mon, 23 Nov 2026 04.06.20 GMT",
        "Mon, -3 Nov 2026 04:06:20 GMT", "Monday, 23-Nov-26 04:06:20 GMT", "2026-11-23T04:06:20Z"}) {
    INFO(bad);
    CHECK_FALSE(from_http_date(bad).has_value());
  }
}

TEST_CASE("Retry-After is a number of seconds or a date, and bounded", "[http]") {
  using namespace std::chrono_literals;
  const WallTime now = *from_http_date("Mon, 23 Nov 2026 04:06:20 GMT");
  CHECK(parse_retry_after("0", now) == 0ms);
  CHECK(parse_retry_after("120", now) == 120s);
  CHECK(parse_retry_after("99999999999", now) == 24h);
  CHECK(parse_retry_after("Mon, 23 Nov 2026 04:06:50 GMT", now) == 30s);
  CHECK(parse_retry_after("Mon, 23 Nov 2026 04:06:00 GMT", now) == 0s);
  for (const std::string bad : {"", "-1", "1.5", "soon", "1 ", "99999999999999999999999"}) {
    INFO(bad);
    CHECK_FALSE(parse_retry_after(bad, now).has_value());
  }
}

TEST_CASE("a Content-Range must not contradict itself", "[http]") {
  const auto range = parse_content_range("bytes 10-19/5000");
  REQUIRE(range.has_value());
  CHECK((range->first == 10 && range->last == 19 && range->total == 5000));
  for (const std::string bad :
       {"", "bytes 19-10/5000", "bytes 10-19/19", "bytes 10-19/*", "bytes */5000", "bytes=1-2/3", "bytes 1-2",
        "bytes -2/3", "bytes 1-/3", "bytes 1-2/99999999999999999999", "items 1-2/3"}) {
    INFO(bad);
    CHECK_FALSE(parse_content_range(bad).has_value());
  }
}

TEST_CASE("a page of a list is whole, sorted and matches the request", "[http]") {
  const ListPage page{.names = {"a/b", "a/c/d"}, .more = true};
  const std::string text = encode_list_page(page);
  CHECK(text == "a/b\na/c/d\n.more\n");
  const ListPage read = parse_list_page(as_bytes(text), "a/", "");
  CHECK((read.names == page.names && read.more));
  CHECK(parse_list_page(as_bytes(".end\n"), "a/", "").names.empty());

  const auto kind = [](std::string_view body, std::string_view after = "") {
    return test::kind_thrown([&] { parse_list_page(as_bytes(body), "a/", after); });
  };
  CHECK_FALSE(kind("a/b\n.end\n").has_value());
  for (const std::string bad :
       {"", "a/b\n", "a/b\n.en", "a/b.end\n", "b/c\n.end\n", "a/c\na/b\n.end\n", "a/b\na/b\n.end\n", "a/b\r\n.end\r\n",
        "\n.end\n", "a/../b\n.more\n", ".more\n", "<html>login</html>", "a/b\n.end\na/c\n.end\n"}) {
    INFO(bad);
    CHECK(kind(bad) == ErrorKind::kCorrupt);
  }
  const std::string stray = "a/../b\na/b\na/b\r\na/b (conflicted copy)\na/c\n.end\n";
  CHECK((parse_list_page(as_bytes(stray), "a/", "").names == std::vector<std::string>{"a/b", "a/c"}));
  CHECK(kind("a/b\n.end\n", "a/b") == ErrorKind::kCorrupt);  // would go round for ever
}

}  // namespace isr
