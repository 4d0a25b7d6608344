#include "daemon/control.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/json_object.h"
#include "base/whole_file.h"
#include "daemon/control_server.h"
#include "support/error_kind.h"
#include "support/no_threads.h"
#include "support/raw_socket.h"

using namespace isr;
using nlohmann::json;
using test::kind_thrown;

namespace {

json echo(const json& request, const ControlReply&, const std::stop_token&) { return {{"said", request}}; }

struct Place {
  TempDirectory directory;
  fs::path socket = directory.path() / "ctl" / "parcel";
};

sockaddr_un address_of(const fs::path& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = socket.string();
  std::copy(name.begin(), name.end(), address.sun_path);
  return address;
}

/// A bound socket without a listener, like that of a killed daemon. After listen() it is like that of a stopped one.
UniqueFd bind_raw(const fs::path& socket) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  make_private_directory(socket.parent_path());
  const sockaddr_un address = address_of(socket);
  REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

/// Connects as a client that need not keep to the protocol. Null if it cannot connect.
UniqueFd connect_raw(const fs::path& socket, int flags = 0) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  const sockaddr_un address = address_of(socket);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd.reset();
  return fd;
}

}  // namespace

TEST_CASE("the control server answers with the result or the error when its handler returns or throws", "[daemon]") {
  const Place place;
  const auto server = start_control_server(
      place.socket, [](const json& request, const ControlReply& reply, const std::stop_token&) -> json {
        reply({{"type", "progress"}, {"step", "work"}});
        if (request.value("command", "") == "fail") throw Error(ErrorKind::kLocked, "locked", {"do this"});
        return {{"n", 7}};
      });
  std::vector<std::string> steps;
  const json answer = control_request(place.socket, {{"command", "go"}},
                                      [&](const json& line) { steps.push_back(line.value("step", "")); });
  CHECK(answer.value("n", 0) == 7);
  CHECK(steps == std::vector<std::string>{"work"});
  CHECK(kind_thrown([&] { control_request(place.socket, {{"command", "fail"}}); }) == ErrorKind::kLocked);
}

TEST_CASE("the control server answers the next request when clients have sent junk", "[daemon]") {
  const Place place;
  const auto server = start_control_server(place.socket, echo);
  const std::vector<std::string> junk = {"\n",
                                         "null\n",
                                         "[]\n",
                                         "{\n",
                                         "{\"command\":7}\n",
                                         "{\"a\":1,\"a\":2}\n",
                                         std::string(100'000, '[') + "\n",
                                         "{\"a\":" + std::string(100'000, '{') + "\n",
                                         std::string("\0\xff\n", 3),
                                         std::string(kMaxControlLine + 8192, 'x')};
  for (const auto& line : junk) {
    const UniqueFd client = connect_raw(place.socket);
    REQUIRE(client);
    test::send_all(client.get(), line);
    ::shutdown(client.get(), SHUT_WR);
    test::receive_all(client.get());  // until the server closes
  }
  CHECK(control_request(place.socket, {{"a", 1}}).at("said") == json{{"a", 1}});
}

TEST_CASE("the control server answers when ten thousand clients have connected and some stay silent", "[daemon]") {
  const Place place;
  const auto server = start_control_server(place.socket, echo);
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 10'000; ++i) {
    UniqueFd client = connect_raw(place.socket);
    if (client && i % 250 == 0) {
      test::send_all(client.get(), "{\"comm");
      silent.push_back(std::move(client));
    }
  }
  CHECK(control_request(place.socket, {{"a", 1}}).at("said") == json{{"a", 1}});
}

TEST_CASE("the control server finishes the work when the client does not read", "[daemon]") {
  const Place place;
  std::promise<bool> done;
  const auto server =
      start_control_server(place.socket, [&](const json&, const ControlReply& reply, const std::stop_token&) -> json {
        bool all_sent = true;
        for (int i = 0; i < 5'000; ++i) all_sent = reply({{"type", "progress"}, {"n", i}}) && all_sent;
        done.set_value(all_sent);
        return {{"n", 7}};
      });
  const UniqueFd client = connect_raw(place.socket);
  REQUIRE(test::send_all(client.get(), "{}\n"));
  auto all_sent = done.get_future();
  REQUIRE(all_sent.wait_for(std::chrono::seconds(60)) == std::future_status::ready);
  CHECK_FALSE(all_sent.get());
  // When the client reads again, it gets whole lines, and the last one is the answer.
  const std::string said = test::receive_all(client.get());
  REQUIRE(said.ends_with("\n"));
  const auto last = said.rfind('\n', said.size() - 2);
  CHECK(parse_json_object(said.substr(last + 1), "the line").value("n", 0) == 7);
}

TEST_CASE("the control server takes its path only when it is free or a killed daemon left it", "[daemon]") {
  const Place place;
  CHECK_FALSE(control_alive(place.socket));
  CHECK(kind_thrown([&] { control_request(place.socket, {}); }) == ErrorKind::kDaemon);
  SECTION("a live daemon has it") {
    const auto server = start_control_server(place.socket, echo);
    CHECK(kind_thrown([&] { start_control_server(place.socket, echo); }) == ErrorKind::kDaemon);
    CHECK(control_alive(place.socket));
  }
  SECTION("a file has it") {
    make_private_directory(place.socket.parent_path());
    create_file(place.socket, {});
    CHECK(kind_thrown([&] { start_control_server(place.socket, echo); }) == ErrorKind::kDaemon);
    CHECK(kind_thrown([&] { control_request(place.socket, {}); }) == ErrorKind::kDaemon);
    CHECK(fs::is_regular_file(place.socket));
  }
  SECTION("a symlink leads to another daemon's socket") {
    const auto server = start_control_server(place.directory.path() / "other", echo);
    make_private_directory(place.socket.parent_path());
    fs::create_symlink(place.directory.path() / "other", place.socket);
    CHECK(kind_thrown([&] { control_request(place.socket, {}); }) == ErrorKind::kDaemon);
  }
  SECTION("a killed daemon left it") {
    bind_raw(place.socket);
    CHECK_FALSE(control_alive(place.socket));
    const auto server = start_control_server(place.socket, echo);
    CHECK(control_alive(place.socket));
  }
}

TEST_CASE("the control socket is free for the next server when a client was told of the end", "[daemon]") {
  const Place place;
  std::unique_ptr<ControlServer> ending;
  ending = start_control_server(place.socket, [&](const json&, const ControlReply&, const std::stop_token&) -> json {
    ending->stop_listening();
    return {{"ended", true}};
  });
  CHECK(control_request(place.socket, {{"command", "end"}}).at("ended"));
  CHECK_FALSE(control_alive(place.socket));
  const auto next = start_control_server(place.socket, echo);
  ending.reset();
  CHECK(control_alive(place.socket));
}

TEST_CASE("a client refuses to use a control socket when it belongs to another user", "[daemon]") {
  if (::geteuid() != 0) return;  // only root can give the socket to another user
  const Place place;
  const auto server = start_control_server(place.socket, echo);
  REQUIRE(::lchown(place.socket.c_str(), 65534, 65534) == 0);
  CHECK(kind_thrown([&] { control_request(place.socket, {{"a", 1}}); }) == ErrorKind::kDaemon);
  CHECK(kind_thrown([&] { control_alive(place.socket); }) == ErrorKind::kDaemon);
}

TEST_CASE("a client reports that the daemon does not answer when it is stopped and its backlog is full", "[daemon]") {
  const Place place;
  const UniqueFd listener = bind_raw(place.socket);
  REQUIRE(::listen(listener.get(), 2) == 0);
  std::vector<UniqueFd> before;
  while (UniqueFd client = connect_raw(place.socket, SOCK_NONBLOCK)) before.push_back(std::move(client));
  CHECK(kind_thrown([&] { control_request(place.socket, {{"a", 1}}); }) == ErrorKind::kDaemon);
}

TEST_CASE("the control server refuses a command when it has no free descriptor, and takes the next when it has one",
          "[daemon]") {
  const Place place;
  const auto server = start_control_server(place.socket, echo);
  CHECK(control_request(place.socket, {{"command", "one"}}).contains("said"));
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(place.socket);
  rlimit usual{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &usual) == 0);
  const rlimit few{256, usual.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  std::vector<UniqueFd> all;
  for (UniqueFd one(::dup(client.get())); one; one = UniqueFd(::dup(client.get()))) all.push_back(std::move(one));
  REQUIRE(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  std::string answer(4096, ' ');
  const ssize_t sent = ::send(client.get(), "{}\n", 3, MSG_NOSIGNAL);
  const ssize_t got = ::recv(client.get(), answer.data(), answer.size(), 0);
  all.clear();
  ::setrlimit(RLIMIT_NOFILE, &usual);
  CHECK(sent == 3);
  REQUIRE(got > 0);
  const json line = parse_json_object(answer.substr(0, answer.find('\n')), "the answer");
  CHECK(line.value("kind", "") == "daemon");
  CHECK(line.value("message", "").find("descriptor") != std::string::npos);
  CHECK(control_request(place.socket, {{"command", "two"}}).contains("said"));
}

TEST_CASE("the control server refuses a command when it cannot start a thread, and takes the next when it can",
          "[daemon]") {
  const Place place;
  const auto server = start_control_server(place.socket, echo);
  CHECK(control_request(place.socket, {{"command", "one"}}).contains("said"));
  std::optional<Error> failure;
  try {
    const test::NoThreads none;
    control_request(place.socket, {{"command", "two"}});
  } catch (const Error& error) {
    failure = error;
  }
  REQUIRE(failure.has_value());
  CHECK(failure->kind() == ErrorKind::kDaemon);
  CHECK(std::string(failure->what()).find("thread") != std::string::npos);
  CHECK(control_request(place.socket, {{"command", "three"}}).contains("said"));
}

TEST_CASE("a client throws NotBegun when a request did not begin, and another Error when it failed", "[daemon]") {
  const Place place;
  const auto is_not_begun = [&](const json& request) {
    try {
      control_request(place.socket, request);
    } catch (const NotBegun& error) {
      CHECK(error.kind() == ErrorKind::kDaemon);
      return true;
    } catch (const Error&) {
    }
    return false;
  };
  CHECK(is_not_begun({{"command", "any"}}));  // no daemon listens
  {
    const auto server = start_control_server(place.socket, [](const json& request, auto&&...) -> json {
      if (request.value("command", "") == "early") throw NotBegun("ending", {"again"});
      throw Error(ErrorKind::kDaemon, "failed");
    });
    CHECK(is_not_begun({{"command", "early"}}));
    CHECK_FALSE(is_not_begun({{"command", "late"}}));
  }
  const UniqueFd listener = bind_raw(place.socket);
  REQUIRE(::listen(listener.get(), 2) == 0);
  for (const std::string said : {"", "{\"type\":\"accepted\"}\n"}) {
    const std::jthread dying([&] {
      const UniqueFd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      std::array<char, 4096> request{};
      REQUIRE(::recv(connection.get(), request.data(), request.size(), 0) > 0);
      REQUIRE(::send(connection.get(), said.data(), said.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(said.size()));
    });
    CHECK(is_not_begun({{"command", "any"}}) == said.empty());
  }
}
