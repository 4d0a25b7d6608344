#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "support/error_kind.h"
#include "support/fault_http.h"

namespace isr {
namespace {

TEST_CASE("a store address has one canonical form", "[repository]") {
  const std::string here = fs::current_path().string();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"/srv/isr", "/srv/isr"},
      {"/srv/isr///", "/srv/isr"},
      {"//srv//isr/./x/..", "/srv/isr"},
      {"/", "/"},
      {"isr", here + "/isr"},
      {"./a:b", here + "/a:b"},
      {"file:///srv/isr/", "/srv/isr"},
      {"file://localhost/srv/isr", "/srv/isr"},
      {"file:///srv/my%20disk", "/srv/my disk"},
      {"http://Example.ORG", "http://example.org"},
      {"HTTPS://example.org:443/isr//", "https://example.org/isr"},
      {"http://example.org:80/", "http://example.org"},
      {"http://example.org:443/", "http://example.org:443"},
      {"http://127.0.0.1:8080/a/b", "http://127.0.0.1:8080/a/b"},
      {"http://[::1]:8080/a", "http://[::1]:8080/a"},
      {"http://[2001:DB8::1]", "http://[2001:db8::1]"},
  };
  for (const auto& [given, canonical] : cases) {
    INFO(given);
    CHECK(canonical_store_url(given) == canonical);
    CHECK(canonical_store_url(canonical) == canonical);
  }
}

TEST_CASE("an invalid address is refused, and no password is ever repeated", "[repository]") {
  for (const std::string url : {"",
                                "ftp://example.org/x",
                                "s3://bucket/x",
                                "file://server/dir",
                                "file://",
                                "file:relative",
                                "file:///a%0",
                                "file:///a%00b",
                                "file:///a%zz",
                                "mailto:x",
                                "host:/srv/isr",
                                "http://",
                                "http:///path",
                                "http:/one",
                                "http://user:hunter2@example.org/",
                                "http://hunter2@example.org",
                                "http://user:hun/ter2@example.org/",
                                "http://user:hunter2",
                                "http://user:hun?ter2@x",
                                "http://h:0/",
                                "http://h:65536/",
                                "http://h:99999999999999999999/",
                                "http://h:/",
                                "http://h:-1/",
                                "http://h:80x/",
                                "http://::1/",
                                "http://::1:8080/",
                                "http://[::1",
                                "http://[::1]x",
                                "http://[::1]:0/",
                                "http://[zz]/",
                                "http://[]/",
                                "http://[fe80::1%25eth0]/",
                                "http://a b/",
                                "http://a/b c",
                                "http://a/b?c",
                                "http://a/b#c",
                                "http://a/../b",
                                "http://a/b/.",
                                "http://a/./b",
                                "http://a\nb/",
                                "http://a/\x1b[2J",
                                "http://b\xc3\xbc"
                                "cher.example/",
                                "/a\nb"}) {
    INFO("address: " << url);
    try {
      canonical_store_url(url);
      FAIL_CHECK("was accepted");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUsage);
      for (const char* secret : {"hunter2", "hun", "ter2", "\n", "\x1b"}) {
        CHECK(std::string(error.what()).find(secret) == std::string::npos);
      }
    }
  }
  CHECK_THROWS_AS(canonical_store_url(std::string("/a\0b", 4)), Error);
  CHECK_THROWS_AS(canonical_store_url("/" + std::string(5000, 'x')), Error);
}

TEST_CASE("an unknown scheme is refused with the known ones when an address has it", "[repository]") {
  for (const std::string url : {"s3://bucket/x", "FTP://user:hunter2@host/"}) {
    try {
      canonical_store_url(url);
      FAIL_CHECK("was accepted");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUsage);
      CHECK(std::string(error.what()).ends_with(":// is not supported; use a directory, http:// or https://"));
    }
  }
}

TEST_CASE("a store opens even when the first connections break", "[repository]") {
  const test::FaultHttp server([](const test::FaultRequest& request) {
    if (request.number < 3) return test::FaultAnswer{.bytes = "", .end = test::FaultAnswer::End::kReset};
    return test::FaultAnswer{.bytes = test::http_answer(200, "Isr-Repository: writable\r\n", "{}")};
  });
  CHECK(open_store(server.url())->writable());
}

TEST_CASE("opening a store waits until it is there or stop is requested", "[repository]") {
  std::stop_source source;
  const test::FaultHttp server([&](const test::FaultRequest&) {
    source.request_stop();
    return test::FaultAnswer{.bytes = "", .end = test::FaultAnswer::End::kReset};
  });
  StoreOptions options;
  options.open_patience = std::chrono::minutes(1);
  CHECK(test::kind_thrown([&] { open_store(server.url(), options, source.get_token()); }) == ErrorKind::kCancelled);
  CHECK(server.connections() == 1);
}

TEST_CASE("a store is asked only once when open_patience is zero", "[repository]") {
  const test::FaultHttp server(
      [](const test::FaultRequest&) { return test::FaultAnswer{.bytes = "", .end = test::FaultAnswer::End::kReset}; });
  StoreOptions options;
  options.open_patience = {};
  CHECK(test::kind_thrown([&] { open_store(server.url(), options); }) == ErrorKind::kTransient);
  CHECK(server.connections() == 1);
}

TEST_CASE("a call that fails is repeated as often as the options say", "[repository]") {
  const test::FaultHttp server([](const test::FaultRequest& request) {
    return test::FaultAnswer{.bytes = test::http_answer(request.number == 0 ? 404 : 503, "", "")};
  });
  const int attempts = GENERATE(1, 2, 3);
  StoreOptions options;
  options.attempts = attempts;
  const auto store = open_store(server.url(), options);
  CHECK(test::kind_thrown([&] { store->get("a/b"); }) == ErrorKind::kTransient);
  CHECK(server.requests().size() == 1 + static_cast<std::size_t>(attempts));
}

TEST_CASE("a path opens as a directory store", "[repository]") {
  const TempDirectory directory;
  const auto store = open_store(directory.path().string() + "/");
  CHECK(store->describe() == directory.path().string());
  CHECK(store->writable());
  CHECK_FALSE(store->get("isr-repository").has_value());
}

}  // namespace
}  // namespace isr
