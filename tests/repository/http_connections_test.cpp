// The connections of the HTTP store: shared, cancelled, through proxies, refused.
#include <sys/socket.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <future>

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
using End = FaultAnswer::End;
using namespace std::chrono_literals;

TEST_CASE("curl does not repeat a put by itself on a connection that dies", "[http]") {
  // The server applied the put, but its answer is lost. Were curl to send it
  // again, we would be told that the blob exists, thus is somebody else's.
  FaultHttp server([](const FaultRequest& request) {
    if (is_probe(request)) return FaultAnswer{.bytes = http_answer(200, kServer, "{}")};
    if (request.number == 1) return FaultAnswer{.bytes = "", .end = End::kClose};
    return FaultAnswer{.bytes = http_answer(412, "", "")};
  });
  const auto store = open_http_store(server.url(), impatient());
  CHECK(test::kind_thrown([&] { store->put_new("a/b", test::random_bytes(1000, 1)); }) == ErrorKind::kTransient);
  CHECK(server.requests().size() == 2);
  const auto put = server.requests().back();
  CHECK(put.head.find("If-None-Match: *\r\n") != std::string::npos);
  CHECK(put.head.find("Expect") == std::string::npos);
  CHECK((to_bytes(as_bytes(put.body)) == test::random_bytes(1000, 1)));
}

TEST_CASE("requests one after the other share a connection", "[http]") {
  Faulty faulty({.bytes = http_answer(200, "", "x")});
  for (int i = 0; i < 20; ++i) faulty.store->get("a/b");
  CHECK(faulty.server.connections() == 1);
}

TEST_CASE("a request can be cancelled while the server is silent", "[http]") {
  std::promise<void> asked;
  FaultHttp server([&](const FaultRequest& request) {
    if (is_probe(request)) return FaultAnswer{.bytes = http_answer(200, kServer, "{}")};
    asked.set_value();
    return FaultAnswer{.bytes = "", .end = End::kStay};
  });
  const auto store = open_store(server.url());
  std::stop_source source;
  std::jthread canceller([&] {
    asked.get_future().wait();
    source.request_stop();
  });
  const std::stop_token stop = source.get_token();
  const std::vector<std::function<void()>> calls{[&] { store->get("a/b", {}, stop); },
                                                 [&] { store->stat("a/b", stop); },
                                                 [&] { store->put_new("a/b", test::random_bytes(1000, 1), stop); },
                                                 [&] { store->put_hint("a/latest", test::random_bytes(20, 1), stop); },
                                                 [&] { store->list("a/", stop); },
                                                 [&] { make_stoppable(store, stop)->stat("a/b"); }};
  const auto call = GENERATE(range(0, 6));
  CAPTURE(call);
  CHECK(test::kind_thrown(calls.at(static_cast<std::size_t>(call))) == ErrorKind::kCancelled);
}

TEST_CASE("no server, an unknown name and an invalid proxy are transient, but a bad URL is not", "[http]") {
  std::string unused;
  {
    const auto listener = test::listen_loopback();
    unused = "http://127.0.0.1:" + std::to_string(listener.port);
  }
  const auto kind = [](const std::string& url) {
    return test::kind_thrown([&] { open_http_store(url, impatient()); });
  };
  CHECK(kind(unused) == ErrorKind::kTransient);
  CHECK(kind("http://name.invalid") == ErrorKind::kTransient);
  CHECK(kind("https" + unused.substr(4)) == ErrorKind::kTransient);
  for (const std::string url : {"ftp://127.0.0.1/x", "http://user:secret@127.0.0.1/", "http://", "nonsense:"}) {
    try {
      open_http_store(url, impatient());
      FAIL("no Error was thrown");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUsage);
      CHECK(std::string_view(error.what()).find("secret") == std::string_view::npos);
    }
  }
}

TEST_CASE("a proxy in the environment is not used for loopback, and junk from it is a network failure", "[http]") {
  Faulty faulty({.bytes = http_answer(200, "", "x")});
  ::setenv("http_proxy", "http://127.0.0.1:1", 1);
  CHECK_FALSE(faulty.kind_of_get().has_value());
  const auto kind = test::kind_thrown([] { open_http_store("http://192.0.2.1", impatient()); });
  ::setenv("http_proxy", "::junk::", 1);
  const auto junk_kind = test::kind_thrown([] { open_http_store("http://192.0.2.1", impatient()); });
  ::unsetenv("http_proxy");
  CHECK(kind == ErrorKind::kTransient);
  CHECK(junk_kind == ErrorKind::kTransient);
}

TEST_CASE("TLS to a peer without TLS is refused without a retry", "[http]") {
  const auto listener = test::listen_loopback();
  std::jthread plain([&] {
    const UniqueFd fd(::accept(listener.fd.get(), nullptr, nullptr));
    std::string hello;
    test::receive_until(fd.get(), hello, std::string_view("\x03", 1));
    test::send_all(fd.get(), "HTTP/1.1 400 Bad Request\r\n\r\n");
    test::receive_all(fd.get());  // closing with unread bytes would be a reset
  });
  const std::string url = "https://127.0.0.1:" + std::to_string(listener.port);
  CHECK(test::kind_thrown([&] { open_http_store(url, impatient()); }) == ErrorKind::kOffline);
}

TEST_CASE("more threads than connections all get their answer", "[http]") {
  FaultHttp server([](const FaultRequest&) { return FaultAnswer{.bytes = http_answer(200, "", "x")}; });
  HttpOptions options;
  options.max_connections = 3;
  const auto client = make_http_client(server.url(), options);
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 12; ++i) {
      threads.emplace_back([&] {
        for (int k = 0; k < 10; ++k) {
          HttpRequest request;
          request.target = "/x";
          request.max_response_bytes = 10;
          if (client->perform(request).status == 200) ++good;
        }
      });
    }
  }
  CHECK(good == 120);
  CHECK(server.connections() <= 3);
}

}  // namespace isr
