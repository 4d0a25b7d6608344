// The HTTP store against a server, or something between, that does everything
// wrong that we know of. Nothing wrong may ever look like a blob or an absence.
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "base/crypto.h"
#include "repository/faulty_http.h"
#include "support/error_kind.h"

namespace isr {

using test::FaultAnswer;
using test::FaultHttp;
using test::FaultRequest;
using test::Faulty;
using test::http_answer;
using test::impatient;
using test::is_probe;
using test::kServer;
using test::then;
using End = FaultAnswer::End;
using namespace std::chrono_literals;

namespace {

const std::string kPart = "HTTP/1.1 206 x\r\nContent-Length: ";
const std::string kDates = "Date: Mon, 23 Nov 2026 04:06:20 GMT\r\nLast-Modified: Mon, 23 Nov 2026 04:00:20 GMT\r\n";

struct StatusCase {
  int status;
  ErrorKind kind;
};

}  // namespace

TEST_CASE("each unexpected status has its kind of error", "[http]") {
  const StatusCase cases[] = {
      {400, ErrorKind::kFailed},      {401, ErrorKind::kDenied},      {403, ErrorKind::kDenied},
      {405, ErrorKind::kUnsupported}, {408, ErrorKind::kTransient},   {413, ErrorKind::kUnsupported},
      {418, ErrorKind::kFailed},      {428, ErrorKind::kUnsupported}, {429, ErrorKind::kTransient},
      {500, ErrorKind::kTransient},   {501, ErrorKind::kUnsupported}, {502, ErrorKind::kTransient},
      {503, ErrorKind::kTransient},   {504, ErrorKind::kTransient},   {507, ErrorKind::kIo},
      {204, ErrorKind::kFailed},      {304, ErrorKind::kUnsupported}, {206, ErrorKind::kFailed}};
  for (const auto& [status, kind] : cases) {
    INFO("status " << status);
    const bool bodiless = status == 204 || status == 304;
    Faulty faulty(
        {.bytes = bodiless ? "HTTP/1.1 " + std::to_string(status) + " x\r\n\r\n" : http_answer(status, "", "what")});
    CHECK(faulty.kind_of_get() == kind);
    if (status != 206 && status != 204) CHECK(faulty.kind_of_put() == kind);
  }
}

TEST_CASE("404 and 410 are absence", "[http]") {
  for (const int status : {404, 410}) {
    Faulty faulty({.bytes = http_answer(status, "", "<html>no</html>")});
    CHECK_FALSE(faulty.store->get("a/b").has_value());
    CHECK_FALSE(faulty.store->get("a/b", ByteRange{1, 2}).has_value());
  }
}

TEST_CASE("a pause that the server requests reaches the layer that retries", "[http]") {
  Faulty faulty({.bytes = http_answer(503, "Retry-After: 7\r\n", "")});
  try {
    faulty.store->get("a/b");
    FAIL("no Error was thrown");
  } catch (const RetryLater& later) {
    CHECK(later.pause() == 7s);
  }
}

TEST_CASE("an answer that ends early or does not match its length is never a blob", "[http]") {
  const std::string whole = http_answer(200, "", std::string(1000, 'x'));
  SECTION("connection closed in the body") {
    CHECK(Faulty({.bytes = whole.substr(0, whole.size() - 1), .end = End::kClose}).kind_of_get() ==
          ErrorKind::kTransient);
  }
  SECTION("connection closed at any byte of the header") {
    for (std::size_t k = 0; k < whole.find("\r\n\r\n") + 4; ++k) {
      INFO("after " << k << " bytes");
      CHECK(Faulty({.bytes = whole.substr(0, k), .end = End::kClose}).kind_of_get() == ErrorKind::kTransient);
    }
  }
  SECTION("reset in the header or body") {
    for (const std::size_t k : {0U, 9U, 20U, 45U, 500U}) {
      Faulty faulty({.bytes = whole.substr(0, k), .end = End::kReset});
      CHECK(faulty.kind_of_get() == ErrorKind::kTransient);
      CHECK(faulty.kind_of_put() == ErrorKind::kTransient);
    }
  }
  SECTION("chunks that are invalid or do not end") {
    const std::string chunked = "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n";
    CHECK(Faulty({.bytes = chunked + "zz\r\nabc\r\n", .end = End::kClose}).kind_of_get() == ErrorKind::kTransient);
    CHECK(Faulty({.bytes = chunked + "3\r\nabc\r\n", .end = End::kClose}).kind_of_get() == ErrorKind::kTransient);
  }
  SECTION("two lengths, or one that is not a number") {
    for (const std::string header : {"Content-Length: 5\r\nContent-Length: 1000\r\n", "Content-Length: -1\r\n",
                                     "Content-Length: 99999999999999999999999\r\n"}) {
      INFO(header);
      const auto kind =
          Faulty({.bytes = "HTTP/1.1 200 x\r\n" + header + "\r\n" + std::string(1000, 'x'), .end = End::kClose})
              .kind_of_get();
      CHECK((!kind || kind == ErrorKind::kTransient || kind == ErrorKind::kCorrupt));
    }
  }
  SECTION("not HTTP at all") {
    CHECK(Faulty({.bytes = "SSH-2.0-OpenSSH_9.2\r\n", .end = End::kClose}).kind_of_get() == ErrorKind::kTransient);
    CHECK(Faulty({.bytes = std::string(300, '\0'), .end = End::kClose}).kind_of_get() == ErrorKind::kTransient);
  }
}

TEST_CASE("bytes after an answer do not become the next answer", "[http]") {
  const std::string poison = http_answer(200, "", "poison");
  FaultHttp server([&](const FaultRequest& request) {
    if (is_probe(request)) return FaultAnswer{.bytes = http_answer(200, kServer, "{}")};
    if (request.number == 1) return FaultAnswer{.bytes = http_answer(200, "", "good") + poison};
    return FaultAnswer{.bytes = http_answer(200, "", "second")};
  });
  const auto store = open_http_store(server.url(), impatient());
  CHECK(as_text(store->get("a/b")->bytes) == "good");
  CHECK(as_text(store->get("a/b")->bytes) == "second");
}

TEST_CASE("an answer larger than any blob is not kept in memory", "[http]") {
  SECTION("by its length") {
    Faulty faulty({.bytes = "HTTP/1.1 200 x\r\nContent-Length: 1073741824\r\n\r\n" + std::string(2U << 20U, 'x'),
                   .end = End::kClose});
    CHECK(faulty.kind_of_get() == ErrorKind::kCorrupt);
  }
  SECTION("without a length") {
    Faulty faulty({.bytes = "HTTP/1.1 200 x\r\n\r\n" + std::string(2U << 20U, 'x'), .end = End::kClose});
    CHECK(faulty.kind_of_get() == ErrorKind::kCorrupt);
  }
  SECTION("in the header") {
    FaultHttp server([](const FaultRequest&) {
      return FaultAnswer{.bytes = "HTTP/1.1 200 x\r\nX-A: " + std::string(1000, 'a') + "\r\n", .end = End::kClose};
    });
    const auto open = [&] { open_http_store(server.url(), impatient()); };
    CHECK(test::kind_thrown(open) == ErrorKind::kTransient);
  }
  SECTION("in a header without an end") {
    Faulty faulty({.bytes = "HTTP/1.1 200 x\r\nX-A: a\r\n", .end = End::kEndless});
    CHECK(faulty.kind_of_get() == ErrorKind::kTransient);
  }
}

TEST_CASE("a silent or trickling server is given up", "[http]") {
  const StoreOptions options = impatient(500ms);
  const FaultAnswer silence{.bytes = "", .end = End::kStay};
  SECTION("no answer at all") { CHECK(Faulty(silence, options).kind_of_get() == ErrorKind::kTransient); }
  SECTION("silence in the body") {
    const FaultAnswer part{.bytes = "HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\nabc", .end = End::kStay};
    CHECK(Faulty(part, options).kind_of_get() == ErrorKind::kTransient);
  }
  SECTION("a byte now and then") {
    const FaultAnswer slow{.bytes = http_answer(200, "", std::string(100'000, 'x')), .pause_per_byte = 10ms};
    CHECK(Faulty(slow, options).kind_of_get() == ErrorKind::kTransient);
  }
  SECTION("silence after a put") { CHECK(Faulty(silence, options).kind_of_put() == ErrorKind::kTransient); }
}

TEST_CASE("a small answer that comes byte by byte takes no longer than silence, but an object may come slowly",
          "[http]") {
  const StoreOptions options = impatient(500ms);
  const auto drip = [](const std::string& answer) { return FaultAnswer{.bytes = answer, .pause_per_byte = 1ms}; };
  SECTION("a head or lock") {
    CHECK(Faulty(drip(http_answer(200, "", std::string(100'000, 'x'))), options).kind_of_get() ==
          ErrorKind::kTransient);
  }
  SECTION("a page of a list") {
    Faulty faulty(drip(http_answer(200, "", std::string(100'000, 'x'))), options);
    CHECK(test::kind_thrown([&] { faulty.store->list("a/"); }) == ErrorKind::kTransient);
  }
  SECTION("the header of an answer to HEAD") {
    Faulty faulty(drip(http_answer(200, "X-A: " + std::string(10'000, 'x') + "\r\n", "")), options);
    CHECK(test::kind_thrown([&] { faulty.store->stat("a/b"); }) == ErrorKind::kTransient);
  }
  SECTION("each attempt of a call") {
    const FaultHttp server(then(drip(http_answer(200, "", std::string(100'000, 'x')))));
    StoreOptions twice = options;
    twice.attempts = 2;
    const auto store = open_store(server.url(), twice);
    CHECK(test::kind_thrown([&] { store->get("a/b"); }) == ErrorKind::kTransient);
    CHECK(server.requests().size() == 3);  // and the one that opens the store
  }
  SECTION("an object") {
    const Bytes object = test::random_bytes(1200, 1);
    Faulty faulty(drip(http_answer(200, "", std::string(as_text(object)))), options);
    CHECK((faulty.store->get(object_name(cid_of(object)))->bytes == object));
  }
}

TEST_CASE("an upload is not given up while a slow network still accepts it", "[http]") {
  const test::Listener listener = test::listen_loopback();
  const int window = 4096;
  REQUIRE(::setsockopt(listener.fd.get(), SOL_SOCKET, SO_RCVBUF, &window, sizeof window) == 0);
  const Bytes body = test::random_bytes(128 << 10, 1);
  std::jthread server([&](const std::stop_token& stop) {
    const UniqueFd fd(::accept(listener.fd.get(), nullptr, nullptr));
    std::string request;
    REQUIRE(test::receive_until(fd.get(), request, "\r\n\r\n"));
    std::size_t rest = body.size() - (request.size() - request.find("\r\n\r\n") - 4);
    std::array<char, 2048> piece{};
    while (rest > 0 && !stop.stop_requested()) {
      std::this_thread::sleep_for(20ms);  // a line of some 100 kB/s
      const ssize_t count = ::recv(fd.get(), piece.data(), std::min(piece.size(), rest), 0);
      if (count <= 0) return;
      rest -= static_cast<std::size_t>(count);
    }
    test::send_all(fd.get(), http_answer(201, "", ""));
  });
  const auto client = make_http_client("http://127.0.0.1:" + std::to_string(listener.port), {.stall_timeout = 300ms});
  HttpRequest request;
  request.method = HttpMethod::kPut;
  request.target = "/a/b";
  request.body = body;
  request.max_response_bytes = 100;
  CHECK(client->perform(request).status == 201);
}

TEST_CASE("a range is accepted only when it is the requested one", "[http]") {
  const ByteRange range{10, 4};
  const auto kind = [&](const std::string& bytes) { return Faulty({.bytes = bytes}).kind_of_get(range); };
  CHECK_FALSE(kind(kPart + "4\r\nContent-Range: bytes 10-13/100\r\n\r\nabcd").has_value());
  CHECK_FALSE(kind(kPart + "2\r\nContent-Range: bytes 10-11/12\r\n\r\nab").has_value());
  CHECK(kind(kPart + "4\r\nContent-Range: bytes 11-14/100\r\n\r\nabcd") == ErrorKind::kTransient);
  CHECK(kind(kPart + "3\r\nContent-Range: bytes 10-12/100\r\n\r\nabc") == ErrorKind::kTransient);
  CHECK(kind(kPart + "3\r\nContent-Range: bytes 10-13/100\r\n\r\nabc") == ErrorKind::kTransient);
  CHECK(kind(kPart + "4\r\n\r\nabcd") == ErrorKind::kTransient);
  CHECK(kind(kPart + "4\r\nContent-Range: bytes 10-13/*\r\n\r\nabcd") == ErrorKind::kTransient);
}

TEST_CASE("a part is cut out of the whole that a server without ranges sends", "[http]") {
  Faulty faulty({.bytes = http_answer(200, "", "0123456789")});
  const auto part = [&](std::uint64_t offset, std::uint64_t length) {
    return std::string(as_text(faulty.store->get("a/b", ByteRange{offset, length})->bytes));
  };
  CHECK(part(0, 3) == "012");
  CHECK(part(3, 4) == "3456");
  CHECK(part(8, 100) == "89");
  CHECK(part(10, 1).empty());
  CHECK(part(500'000, 1).empty());
}

TEST_CASE("a redirect is not followed, wherever it leads", "[http]") {
  for (const std::string to :
       {"/isr-repository", "http://169.254.169.254/", "file:///etc/passwd", "//other.example/x"}) {
    FaultHttp server(
        [&](const FaultRequest&) { return FaultAnswer{.bytes = http_answer(302, "Location: " + to + "\r\n", "")}; });
    CHECK(test::kind_thrown([&] { open_http_store(server.url(), impatient()); }) == ErrorKind::kUnsupported);
    CHECK(server.requests().size() == 1);
  }
}

TEST_CASE("compression that was not requested is refused", "[http]") {
  Faulty faulty({.bytes = http_answer(200, "Content-Encoding: gzip\r\n", "\x1f\x8b")});
  CHECK(faulty.kind_of_get() == ErrorKind::kTransient);
  const auto requests = faulty.server.requests();
  CHECK(requests.back().head.find("Accept-Encoding") == std::string::npos);
}

TEST_CASE("a login page of the network is not taken for a repository", "[http]") {
  FaultHttp server([](const FaultRequest&) {
    return FaultAnswer{.bytes = http_answer(200, "Content-Type: text/html\r\n", "<html>Welcome to our cafe</html>")};
  });
  CHECK(test::kind_thrown([&] { open_http_store(server.url(), impatient()); }) == ErrorKind::kTransient);
}

TEST_CASE("a known repository is out of reach when the network asks for a login", "[http]") {
  StoreOptions known = impatient();
  known.is_known = true;
  const std::string answers[] = {http_answer(302, "Location: http://login.example/\r\n", ""),
                                 http_answer(403, "", "no"), http_answer(401, "", ""), http_answer(407, "", ""),
                                 http_answer(200, "Content-Type: text/html\r\n", "<html>Welcome to our cafe</html>")};
  for (const std::string& answer : answers) {
    INFO(answer);
    const FaultHttp server([&](const FaultRequest&) { return FaultAnswer{.bytes = answer}; });
    CHECK(test::kind_thrown([&] { open_http_store(server.url(), known); }) == ErrorKind::kTransient);
    Faulty later({.bytes = answer}, known);
    CHECK(later.kind_of_get() == ErrorKind::kTransient);
    CHECK(later.kind_of_put() == ErrorKind::kTransient);
  }
  Faulty refused({.bytes = http_answer(403, kServer, "")}, known);
  CHECK(refused.kind_of_get() == ErrorKind::kDenied);
}

TEST_CASE("a server that is not isr serve is read-only and cannot list", "[http]") {
  FaultHttp server([](const FaultRequest& request) {
    return FaultAnswer{.bytes = request.head.starts_with("HEAD") ? "HTTP/1.1 200 x\r\nContent-Length: 77\r\n\r\n"
                                                                 : http_answer(200, kDates, "{}")};
  });
  const auto store = open_http_store(server.url(), impatient());
  CHECK_FALSE(store->writable());
  CHECK_FALSE(store->list("a/").has_value());
  CHECK(test::kind_thrown([&] { store->put_new("a/b", {}); }) == ErrorKind::kUnsupported);
  CHECK(store->get("a/b")->age == 360s);
  CHECK(store->stat("a/b") == 77U);
  CHECK(server.requests().size() == 3);
}

TEST_CASE("a store that might have overwritten a blob is refused", "[http]") {
  for (const int status : {200, 202}) {
    CHECK(Faulty({.bytes = http_answer(status, "", "")}).kind_of_put() == ErrorKind::kUnsupported);
  }
  CHECK(Faulty({.bytes = "HTTP/1.1 204 x\r\n\r\n"}).kind_of_put() == ErrorKind::kUnsupported);
}

}  // namespace isr
