// The contract of BlobStore over HTTP, and what the server promises beyond it.
#include "server/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <thread>

#include "base/crypto.h"
#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "repository/http_client.h"
#include "repository/http_message.h"
#include "support/bytes.h"
#include "support/descriptor_limit.h"
#include "support/error_kind.h"
#include "support/no_threads.h"

namespace isr {
namespace {

struct Served {
  TempDirectory root;
  std::unique_ptr<Server> server;

  explicit Served(ServerOptions options = {}) {
    options.root = root.path();
    server = start_server(options);
  }
  std::unique_ptr<HttpClient> client() const { return make_http_client(server->url()); }
};

HttpRequest put_request(const std::string& target, ByteView body, std::vector<std::string> headers) {
  HttpRequest request;
  request.method = HttpMethod::kPut;
  request.target = target;
  request.body = body;
  request.headers = std::move(headers);
  request.max_response_bytes = 1000;
  return request;
}

HttpRequest get_request(const std::string& target, std::vector<std::string> headers = {}) {
  HttpRequest request;
  request.target = target;
  request.headers = std::move(headers);
  request.max_response_bytes = kMaxBlobSize;
  return request;
}

const Bytes& sample() {
  static const Bytes bytes = test::random_bytes(5000, 3);
  return bytes;
}
std::string sample_target() { return "/" + object_name(cid_of(sample())); }

}  // namespace

TEST_CASE("a server without a thread fails to start", "[server]") {
  const test::NoThreads none;
  CHECK_THROWS(Served());
}

namespace {

std::chrono::duration<double> processor_time() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return std::chrono::seconds(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         std::chrono::microseconds(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

}  // namespace

TEST_CASE("a server without a free descriptor pauses, and answers once there is one", "[server]") {
  const Served served;
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(served.server->port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int connected = -1;
  double used = 0;
  {
    const test::DescriptorLimit none(0);  // a sanitizer opens files for a check, so all are behind this block
    connected = ::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const auto before = processor_time();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    used = (processor_time() - before).count();
  }
  REQUIRE(connected == 0);
  CHECK(used < 0.2);
  const std::string request = "GET /absent HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
  REQUIRE(::send(client.get(), request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size()));
  const timeval patience{.tv_sec = 60, .tv_usec = 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  std::array<char, 9> answer{};
  REQUIRE(::recv(client.get(), answer.data(), answer.size(), MSG_WAITALL) == static_cast<ssize_t>(answer.size()));
  CHECK(std::string_view(answer.data(), answer.size()) == "HTTP/1.1 ");
}

TEST_CASE("a store behind isr serve keeps the contract of a blob store", "[server]") {
  ServerOptions options;
  options.allow_delete = true;
  const Served served(options);
  test::run_blob_store_suite([&] { return open_http_store(served.server->url()); });
}

TEST_CASE("a store behind isr serve keeps the contract below the layer that retries", "[server]") {
  ServerOptions options;
  options.allow_delete = true;
  const Served served(options);
  test::run_blob_store_suite([&] { return open_store(served.server->url() + "/"); });
}

TEST_CASE("a read-only server says so, and the store refuses to write before it asks", "[server]") {
  ServerOptions options;
  options.read_only = true;
  const Served served(options);
  make_directory_store(served.root.path())->put_new("a/b", sample());
  const auto store = open_http_store(served.server->url());
  CHECK_FALSE(store->writable());
  test::run_readable_blob_suite(*store, "a/b", sample());
  CHECK(store->list("a/").has_value());
  CHECK(test::kind_thrown([&] { store->put_new("a/c", sample()); }) == ErrorKind::kUnsupported);
  CHECK(test::kind_thrown([&] { store->put_hint("a/latest", sample()); }) == ErrorKind::kUnsupported);
  CHECK(test::kind_thrown([&] { store->remove("a/b"); }) == ErrorKind::kUnsupported);
  // And the server itself does not rely on that.
  const auto client = served.client();
  CHECK(client->perform(put_request("/a/c", sample(), {"If-None-Match: *"})).status == 405);
  CHECK(client->perform(put_request("/a/latest", sample(), {})).status == 405);
}

TEST_CASE("removing is refused unless the server was started to allow it", "[server]") {
  const Served served;
  const auto store = open_http_store(served.server->url());
  store->put_new("a/b", sample());
  CHECK(test::kind_thrown([&] { store->remove("a/b"); }) == ErrorKind::kDenied);
  CHECK(store->stat("a/b") == sample().size());
}

TEST_CASE("a write must say that it creates, and an object's name must be its hash", "[server]") {
  const Served served;
  const auto client = served.client();
  const std::string target = sample_target();
  CHECK(client->perform(put_request(target, sample(), {})).status == 428);
  CHECK(client->perform(put_request(target, sample(), {"If-None-Match: \"x\""})).status == 428);
  CHECK(client->perform(put_request(target, test::flip_bit(sample(), 9), {"If-None-Match: *"})).status == 400);
  CHECK(client->perform(put_request("/objects/ab/abc", sample(), {"If-None-Match: *"})).status == 400);
  CHECK(client->perform(put_request("/heads/latest/x", sample(), {})).status == 428);
  CHECK(std::filesystem::is_empty(served.root.path()));

  CHECK(client->perform(put_request(target, sample(), {"If-None-Match: *"})).status == 201);
  CHECK(client->perform(put_request(target, sample(), {"If-None-Match: *"})).status == 412);
  CHECK(client->perform(put_request("/parcels/x/latest", sample(), {})).status == 204);
  CHECK(client->perform(put_request("/parcels/x/latest", sample(), {"If-None-Match: *"})).status == 412);
}

TEST_CASE("answers have the headers that caches and the lock protocol need", "[server]") {
  const Served served;
  const auto client = served.client();
  client->perform(put_request(sample_target(), sample(), {"If-None-Match: *"}));
  client->perform(put_request("/locks/1", sample(), {"If-None-Match: *"}));

  const auto object = client->perform(get_request(sample_target()));
  CHECK(object.status == 200);
  CHECK(object.header("isr-repository") == "writable");
  CHECK(object.header("cache-control") == "public, max-age=31536000, immutable");
  const auto lock = client->perform(get_request("/locks/1"));
  CHECK(lock.header("cache-control") == "no-cache");
  const auto now = from_http_date(lock.header("date"));
  const auto stored = from_http_date(lock.header("last-modified"));
  REQUIRE((now && stored));
  CHECK(*stored <= *now);
  CHECK(client->perform(get_request("/locks/2")).header("cache-control") == "no-store");
  CHECK(client->perform(get_request("/locks/2")).status == 404);
  auto head = get_request("/locks/1");
  head.method = HttpMethod::kHead;
  const auto headed = client->perform(head);
  CHECK(headed.header("content-length") == std::to_string(sample().size()));
  CHECK_FALSE(headed.header("last-modified").empty());
}

TEST_CASE("the age of a blob comes from the clock of the server", "[server]") {
  const Served served;
  const auto store = open_http_store(served.server->url());
  store->put_new("locks/1", sample());
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = 1'000'000'000, .tv_nsec = 0}};
  REQUIRE(::utimensat(AT_FDCWD, (served.root.path() / "locks/1").c_str(), times, 0) == 0);
  const auto expected = wall_now() - WallTime(std::chrono::seconds(1'000'000'000));
  for (const auto range : {std::optional<ByteRange>(), std::optional(ByteRange{3, 4}), std::optional(ByteRange{0, 0}),
                           std::optional(ByteRange{9999, 1})}) {
    const auto blob = store->get("locks/1", range);
    REQUIRE((blob && blob->age));
    CHECK(std::abs((*blob->age - expected).count()) <= 2);
  }
}

TEST_CASE("ranges follow RFC 9110", "[server]") {
  const Served served;
  const auto client = served.client();
  client->perform(put_request("/a/b", sample(), {"If-None-Match: *"}));
  const auto ask = [&](const std::string& range) { return client->perform(get_request("/a/b", {"Range: " + range})); };
  const auto part = ask("bytes=10-19");
  CHECK(part.status == 206);
  CHECK(part.header("content-range") == "bytes 10-19/5000");
  CHECK((part.body == Bytes(sample().begin() + 10, sample().begin() + 20)));
  CHECK(ask("bytes=4990-").body.size() == 10);
  CHECK((ask("bytes=-7").body == Bytes(sample().end() - 7, sample().end())));
  CHECK(ask("bytes=5000-").status == 416);
  CHECK(ask("bytes=5000-").header("content-range") == "bytes */5000");
  for (const std::string ignored : {"bytes=5-4", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=-",
                                    "bytes=0-99999999999999999999999"}) {
    INFO(ignored);
    CHECK(ask(ignored).status == 200);
  }
}

TEST_CASE("a long list comes in pages", "[server]") {
  const Served served;
  const auto directory = make_directory_store(served.root.path());
  const std::string first = fmt::format("many/{:0180}", 0);
  directory->put_new(first, test::text_bytes("x"));
  std::vector<std::string> names{first};
  for (int i = 1; i < 12'000; ++i) {  // hard links are quick to make
    names.push_back(fmt::format("many/{:0180}", i));
    std::filesystem::create_hard_link(served.root.path() / first, served.root.path() / names.back());
  }
  const auto store = open_http_store(served.server->url());
  int pages = 0;
  CHECK(store->list_pages("many/", [&](const ListPage&) { ++pages; }));
  CHECK(pages == 3);
  CHECK((store->list("many/") == names));
}

TEST_CASE("the server listens on loopback only", "[server]") {
  const TempDirectory root;
  for (const std::string address : {"0.0.0.0", "::", "192.0.2.1", "example.org", ""}) {
    INFO(address);
    ServerOptions options;
    options.root = root.path();
    options.address = address;
    CHECK(test::kind_thrown([&] { start_server(options); }) == ErrorKind::kUsage);
  }
  ServerOptions options;
  options.root = root.path() / "absent";
  CHECK(test::kind_thrown([&] { start_server(options); }) == ErrorKind::kNotFound);
}

TEST_CASE("a taken port is a clear error", "[server]") {
  const Served served;
  ServerOptions options;
  options.root = served.root.path();
  options.port = served.server->port();
  CHECK(test::kind_thrown([&] { start_server(options); }) == ErrorKind::kIo);
}

TEST_CASE("the port is written where scripts can read it", "[server]") {
  const TempDirectory place;
  ServerOptions options;
  options.port_file = place.path() / "port";
  const Served served(options);
  CHECK(as_text(read_file(options.port_file, 100)) == std::to_string(served.server->port()) + "\n");
}

TEST_CASE("a server whose directory is gone or full reports that, and recovers", "[server]") {
  const Served served;
  const auto store = open_http_store(served.server->url());
  const auto aside = served.root.path().string() + "-aside";
  std::filesystem::rename(served.root.path(), aside);
  CHECK(test::kind_thrown([&] { store->get("a/b"); }) == ErrorKind::kTransient);
  CHECK(test::kind_thrown([&] { store->put_new("a/b", sample()); }).has_value());
  std::filesystem::rename(aside, served.root.path());

  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};  // as a full disk: EFBIG
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const auto kind = test::kind_thrown([&] { store->put_new("a/b", test::random_bytes(100'000, 1)); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  CHECK(kind == ErrorKind::kIo);
  CHECK_FALSE(store->get("a/b").has_value());
  CHECK(store->list("a/")->empty());
  CHECK(store->put_new("a/b", sample()) == PutResult::kCreated);
}

TEST_CASE("stop lets a request under way end, and may be called again", "[server]") {
  Served served;
  std::atomic<int> created{0};
  std::atomic<bool> stopping{false};
  std::vector<std::jthread> writers;
  for (int i = 0; i < 4; ++i) {
    writers.emplace_back([&, i] {
      const auto store = open_http_store(served.server->url());
      for (int k = 0;; ++k) {
        try {
          if (store->put_new(fmt::format("w{}/{}", i, k), sample()) == PutResult::kCreated) ++created;
        } catch (const Error&) {
          if (stopping) return;
          throw;
        }
      }
    });
  }
  while (created < 20) std::this_thread::yield();
  stopping = true;
  served.server->stop();
  served.server->stop();
  writers.clear();
  // What was acknowledged is there.
  const auto directory = make_directory_store(served.root.path());
  std::size_t stored = 0;
  for (int i = 0; i < 4; ++i) stored += directory->list(fmt::format("w{}/", i))->size();
  CHECK(stored >= static_cast<std::size_t>(created));
}

}  // namespace isr
