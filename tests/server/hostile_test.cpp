// Clients that do not keep to the protocol, over raw sockets.
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <future>
#include <thread>

#include "base/crypto.h"
#include "base/file.h"
#include "base/whole_file.h"
#include "repository/blob_store.h"
#include "server/server.h"
#include "support/bytes.h"
#include "support/raw_socket.h"

namespace isr {
namespace {

using namespace std::chrono_literals;

struct Target {
  TempDirectory outside;
  std::filesystem::path root = outside.path() / "root";
  std::unique_ptr<Server> server;

  explicit Target(ServerOptions options = {}) {
    std::filesystem::create_directory(root);
    replace_file(outside.path() / "secret", as_bytes("secret"));
    make_directory_store(root)->put_new("a/b", as_bytes("content"));
    options.root = root;
    server = start_server(options);
  }
  /// Sends one request, and gives all that comes until the server closes.
  std::string say(std::string_view bytes) const {
    const UniqueFd fd = test::connect_loopback(server->port());
    test::send_all(fd.get(), bytes);
    return test::receive_all(fd.get());
  }
  int status_of(std::string_view bytes) const {
    const std::string answer = say(bytes);
    return answer.starts_with("HTTP/1.1 ") ? std::stoi(answer.substr(9, 3)) : 0;
  }
  int status_of_target(std::string_view target, std::string_view method = "GET") const {
    return status_of(fmt::format("{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", method, target));
  }
  std::size_t files() const {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) count += entry.is_regular_file();
    return count;
  }
  bool is_well() const { return open_http_store(server->url())->get("a/b").has_value(); }
};

const std::string kHost = "Host: 127.0.0.1\r\n";
const std::string kCreate = "If-None-Match: *\r\n";

}  // namespace

TEST_CASE("a path that is not a blob's name is refused, however it is written", "[server]") {
  const Target target;
  for (const std::string path : {"/o/../isr-repo",
                                 "/../secret",
                                 "/a/../../secret",
                                 "/%2e%2e/secret",
                                 "/a/%2e%2e/%2e%2e/secret",
                                 "//a/b",
                                 "/a//b",
                                 "/a/b%00",
                                 "/a/%62",
                                 "/a/\xc0\xae\xc0\xae/secret",
                                 "/a/\xff",
                                 "/.hidden/b",
                                 "/a/.tmp-1",
                                 "/a/b/",
                                 "/a\\b",
                                 "/a/b?x=1",
                                 "/a/b#x",
                                 "http://127.0.0.1/a/b",
                                 "*",
                                 "/",
                                 "/?list=",
                                 "/?list=..%2f",
                                 "/?list=../",
                                 "/?list=a",
                                 "/?list=a/&after=../x",
                                 "/?list=a/&list=b/",
                                 "/?LIST=a/",
                                 "/~root/x",
                                 "/a/b;x"}) {
    INFO(path);
    CHECK(target.status_of_target(path) == 400);
    CHECK(target.status_of_target(path, "DELETE") >= 400);
  }
  const std::string nul = std::string("GET /a/b") + '\0' + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  CHECK(target.status_of(nul) == 400);
  CHECK(target.status_of_target("/" + std::string(8192, 'a')) == 414);
  CHECK(target.status_of_target("/" + std::string(70'000, 'a')) == 431);
  CHECK(target.files() == 1);
  CHECK(target.is_well());
}

TEST_CASE("a symlink in the repository is not followed", "[server]") {
  const Target target;
  std::filesystem::create_symlink(target.outside.path() / "secret", target.root / "a/link");
  const std::string answer = target.say("GET /a/link HTTP/1.1\r\n" + kHost + "Connection: close\r\n\r\n");
  CHECK(answer.find("secret") == std::string::npos);
  CHECK_FALSE(answer.starts_with("HTTP/1.1 200"));
}

TEST_CASE("a failure of the server names no path of its machine", "[server]") {
  const Target target;
  std::filesystem::create_symlink(target.outside.path() / "secret", target.root / "a/link");
  const std::string answer = target.say("GET /a/link HTTP/1.1\r\n" + kHost + "Connection: close\r\n\r\n");
  CHECK(answer.find(target.root.string()) == std::string::npos);
}

TEST_CASE("unknown methods are refused", "[server]") {
  const Target target;
  for (const std::string method : {"TRACE", "OPTIONS", "POST", "PATCH", "PROPFIND", "MKCOL", "MOVE", "BREW"}) {
    INFO(method);
    CHECK(target.status_of_target("/a/b", method) == 405);
  }
  CHECK(target.status_of("CONNECT example.org:443 HTTP/1.1\r\nConnection: close\r\n" + kHost + "\r\n") == 405);
  CHECK(target.status_of_target("/?list=a/", "HEAD") == 405);
}

TEST_CASE("a request that two parsers could divide differently is refused", "[server]") {
  const Target target;
  const std::string put = "PUT /a/c HTTP/1.1\r\n" + kHost + kCreate;
  const std::string chunks = "3\r\nabc\r\n0\r\n\r\n";
  for (const std::string headers :
       {"Content-Length: 3\r\nContent-Length: 5\r\n", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "Content-Length: +3\r\n", "Content-Length: 3, 3\r\n",
        "Content-Length: 0x3\r\n", "Content-Length: -1\r\n", "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 3\r\n", "Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: gzip\r\n", "Content-Length: 3\r\n folded: x\r\n", "Bad Name: x\r\n", "no colon\r\n"}) {
    INFO(headers);
    const int status = target.status_of(put + headers + "\r\n" + chunks);
    CHECK((status == 400 || status == 411 || status == 413 || status == 501));
  }
  CHECK(target.status_of(put + "\r\n") == 411);
  for (const std::string start : {"GET  /a/b HTTP/1.1", "GET /a/b HTTP/9.9", "GET /a/b", "/a/b", "\x16\x03\x01\x02",
                                  "GET /a/b HTTP/1.1 x", "G\x01T /a/b HTTP/1.1"}) {
    INFO(start);
    CHECK(target.status_of(start + "\r\n" + kHost + "\r\n") == 400);
  }
  CHECK(target.files() == 1);
}

TEST_CASE("a foreign name in Host is refused, because of DNS rebinding", "[server]") {
  ServerOptions options;
  options.host_names = {"isr.example.org"};
  const Target target(options);
  const auto status = [&](const std::string& host) {
    return target.status_of("GET /a/b HTTP/1.1\r\nConnection: close\r\n" + host + "\r\n");
  };
  for (const std::string good : {"localhost", "localhost:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "10.0.2.2",
                                 "isr.example.org", "isr.example.org:443"}) {
    INFO(good);
    CHECK(status("Host: " + good + "\r\n") == 200);
  }
  for (const std::string bad :
       {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]", "", "["}) {
    INFO(bad);
    CHECK(status("Host: " + bad + "\r\n") == 421);
  }
  CHECK(status("") == 421);
}

TEST_CASE("a body that is too large is refused before it is read", "[server]") {
  const Target target;
  const std::string put = "PUT /a/c HTTP/1.1\r\n" + kHost + kCreate;
  CHECK(target.status_of(fmt::format("{}Content-Length: {}\r\n\r\n", put, kMaxBlobSize + 1)) == 413);
  // The answer arrives also while the client is still sending.
  CHECK(target.status_of(fmt::format("{}Content-Length: {}\r\n\r\n{}", put, 3 * kMaxBlobSize,
                                     std::string(3 * kMaxBlobSize, 'x'))) == 413);
  std::string chunked = put + "Transfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 20; ++i) chunked += "10000\r\n" + std::string(0x10000, 'x') + "\r\n";
  CHECK(target.status_of(chunked + "0\r\n\r\n") == 413);
  CHECK(target.files() == 1);
}

TEST_CASE("an unfinished request is answered with 408 and leaves nothing behind", "[server]") {
  ServerOptions options;
  options.header_timeout = 150ms;
  options.body_timeout = 150ms;
  options.idle_timeout = 150ms;
  const Target target(options);
  const std::string put = "PUT /a/c HTTP/1.1\r\n" + kHost + kCreate;
  CHECK(target.status_of("GET /a/b HTT") == 408);
  CHECK(target.status_of(put + "Content-Length: 100\r\n\r\nhalf") == 408);
  CHECK(target.status_of(put + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n") == 408);
  // Who waits for "100 Continue" gets it, and then has to go on.
  const std::string stalled = target.say(put + "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n");
  CHECK(stalled.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 408"));
  // Silence from the start is only idleness.
  CHECK(target.say("").empty());
  CHECK(target.files() == 1);
  CHECK(target.is_well());
}

TEST_CASE("a client that sends single bytes now and then is cut off in time", "[server]") {
  ServerOptions options;
  options.header_timeout = 200ms;
  const Target target(options);
  const UniqueFd fd = test::connect_loopback(target.server->port());
  const std::string request = "GET /a/b HTTP/1.1\r\nX-Slow: " + std::string(100'000, 'x');
  std::string answer;
  for (std::size_t i = 0; i < request.size(); ++i) {
    if (!test::send_all(fd.get(), std::string_view(request).substr(i, 1))) break;
    if (test::receive_until(fd.get(), answer, "\r\n\r\n", 10ms) || !answer.empty()) break;
  }
  CHECK(answer.starts_with("HTTP/1.1 408"));
}

TEST_CASE("Expect: 100-continue and chunks are understood", "[server]") {
  const Target target;
  const std::string put = "PUT /a/c HTTP/1.1\r\nConnection: close\r\n" + kHost + kCreate;
  const UniqueFd fd = test::connect_loopback(target.server->port());
  test::send_all(fd.get(), put + "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  std::string answer;
  REQUIRE(test::receive_until(fd.get(), answer, "\r\n\r\n"));
  CHECK(answer == "HTTP/1.1 100 Continue\r\n\r\n");
  test::send_all(fd.get(), "abc");
  CHECK(test::receive_all(fd.get()).starts_with("HTTP/1.1 201"));
  // What will be refused anyway needs no body.
  CHECK(target.status_of("PUT /a/d HTTP/1.1\r\n" + kHost + "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n") == 428);

  const std::string chunked = "PUT /a/e HTTP/1.1\r\nConnection: close\r\n" + kHost + kCreate;
  CHECK(target.status_of(chunked + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") == 201);
  CHECK(as_text(make_directory_store(target.root)->get("a/e")->bytes) == "abcde");
}

TEST_CASE("a client that leaves in the middle leaves nothing behind", "[server]") {
  const Target target;
  const std::string put = fmt::format("PUT /a/c HTTP/1.1\r\n{}{}Content-Length: 100000\r\n\r\n{}", kHost, kCreate,
                                      std::string(50'000, 'x'));
  for (std::size_t size = 1; size < put.size(); size += 3000) {
    const UniqueFd fd = test::connect_loopback(target.server->port());
    test::send_all(fd.get(), std::string_view(put).substr(0, size));
    if (size % 2 == 0) test::reset_connection(fd.get());
  }
  {
    const UniqueFd fd = test::connect_loopback(target.server->port());
    test::send_all(fd.get(), "GET /a/b HTTP/1.1\r\n" + kHost + "\r\n");
    test::reset_connection(fd.get());
  }
  CHECK(target.is_well());
  CHECK(target.files() == 1);
}

TEST_CASE("requests sent in one go are answered in order", "[server]") {
  const Target target;
  std::string all;
  for (int i = 0; i < 50; ++i)
    all += "GET /a/b HTTP/1.1\r\n" + kHost + "\r\nGET /a/absent HTTP/1.1\r\n" + kHost + "\r\n";
  // The last one is of an old kind, which does not keep the connection.
  all += "GET /a/b HTTP/1.0\r\n" + kHost + "\r\n";
  const std::string answers = target.say(all);
  std::size_t found = 0;
  int expected = 200;
  for (auto at = answers.find("HTTP/1."); at != std::string::npos; at = answers.find("HTTP/1.", at + 1)) {
    CHECK(answers.substr(at + 9, 3) == std::to_string(expected));
    expected = expected == 200 ? 404 : 200;
    ++found;
  }
  CHECK(found == 101);
}

TEST_CASE("a thousand idle and half-open connections do not keep anyone out", "[server]") {
  const Target target;
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 1000; ++i) {
    idle.push_back(test::connect_loopback(target.server->port()));
    if (i % 2 == 0) test::send_all(idle.back().get(), "GET /a/b HT");
  }
  const auto store = open_http_store(target.server->url());
  for (int i = 0; i < 50; ++i) CHECK(store->get("a/b").has_value());
}

TEST_CASE("above the limit the connection that has idled longest makes room", "[server]") {
  ServerOptions options;
  options.max_connections = 20;
  const Target target(options);
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 100; ++i) idle.push_back(test::connect_loopback(target.server->port()));
  CHECK(target.is_well());
  CHECK(test::receive_all(idle.front().get()).empty());  // closed by the server
}

TEST_CASE("a client that does not read its answer does not keep others waiting", "[server]") {
  ServerOptions options;
  options.body_timeout = 300ms;
  const Target target(options);
  const Bytes large = test::random_bytes(kMaxBlobSize, 1);
  make_directory_store(target.root)->put_new("a/large", large);
  std::vector<UniqueFd> deaf;
  for (int i = 0; i < 20; ++i) {
    deaf.push_back(test::connect_loopback(target.server->port()));
    for (int k = 0; k < 20; ++k) test::send_all(deaf.back().get(), "GET /a/large HTTP/1.1\r\n" + kHost + "\r\n");
  }
  const auto store = open_http_store(target.server->url());
  for (int i = 0; i < 20; ++i) CHECK((store->get("a/large")->bytes == large));
}

TEST_CASE("stop does not wait for clients that are silent", "[server]") {
  ServerOptions options;
  options.stop_timeout = 200ms;
  Target target(options);
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 10; ++i) {
    silent.push_back(test::connect_loopback(target.server->port()));
    const std::string part = "PUT /a/c HTTP/1.1\r\n" + kHost + kCreate + "Content-Length: 9\r\n\r\nab";
    test::send_all(silent.back().get(), std::string_view(part).substr(0, i * part.size() / 9));
  }
  CHECK(target.is_well());
  const auto before = std::chrono::steady_clock::now();
  target.server->stop();
  CHECK(std::chrono::steady_clock::now() - before < 4s);
  CHECK(target.files() == 1);
}

}  // namespace isr
