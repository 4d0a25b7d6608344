#include "vm/guest_agent.h"

#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <thread>

#include "base/stream_socket.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

/// The guest's end: says what `answer` makes of each line that it hears.
class Guest {
 public:
  using Answer = std::function<std::string(const std::string& line)>;

  explicit Guest(Answer answer) : answer_(std::move(answer)) {
    auto [here, there] = make_socket_pair();
    fd_ = std::move(here);
    host_ = std::move(there);
    thread_ = std::jthread([this] { run(); });
  }
  ~Guest() { ::shutdown(fd_.get(), SHUT_RDWR); }
  UniqueFd take_host_end() { return std::move(host_); }

 private:
  void run() {
    std::string line;
    for (char c = 0; ::read(fd_.get(), &c, 1) == 1;) {
      if (c != '\n') {
        line += c;
        continue;
      }
      const std::string said = answer_(line);
      line.clear();
      // A host that waits no longer has gone.
      if (send_all(fd_.get(), said, -1, std::chrono::steady_clock::now() + 60s) != SendResult::kSent) return;
    }
  }

  Answer answer_;
  UniqueFd fd_, host_;
  std::jthread thread_;
};

std::string id_of(const std::string& line) {
  const auto at = line.find("\"id\":") + 5;
  return line.substr(at, line.find_first_of("},", at) - at);
}

std::string greeting_back(const std::string& line) { return "\xff{\"return\": " + id_of(line) + "}\n"; }

bool is_greeting(const std::string& line) { return line.find("guest-sync-delimited") != std::string::npos; }

}  // namespace

TEST_CASE("set_time() sends the time to an agent that answers", "[vm]") {
  std::string told;
  Guest guest([&](const std::string& line) -> std::string {
    if (is_greeting(line)) {
      CHECK(line.front() == '\xff');
      return greeting_back(line);
    }
    told = line;
    return "{\"return\": {}}\n";
  });
  GuestAgent agent(guest.take_host_end());
  REQUIRE(agent.greet({60s, {}}));
  CHECK(agent.set_time(std::chrono::system_clock::time_point(1700000000s), {60s, {}}));
  CHECK(told == R"({"arguments":{"time":1700000000000000000},"execute":"guest-set-time"})");
}

TEST_CASE("output of an agent that is not an answer is skipped", "[vm]") {
  const std::string noise =
      GENERATE("half an answer to another {\"return\": 7}", "{\"return\": 7}\n", "{{{{\n\n[]\n1\n",
               "\xff\xff{\"return\": {\"return\": 1}}\n", "{\"event\": {}}\n\xff\n");
  Guest guest([&](const std::string& line) { return noise + greeting_back(line); });
  GuestAgent agent(guest.take_host_end());
  CHECK(agent.greet({60s, {}}));
}

TEST_CASE("greet() fails when the agent refuses, writes without end, is silent or is gone", "[vm]") {
  SECTION("it refuses") {
    Guest guest([](const std::string& line) {
      return is_greeting(line) ? greeting_back(line) : "{\"error\": {\"class\": \"CommandNotFound\"}}\n";
    });
    GuestAgent agent(guest.take_host_end());
    REQUIRE(agent.greet({60s, {}}));
    CHECK_FALSE(agent.set_time(std::chrono::system_clock::now(), {60s, {}}));
  }
  SECTION("it writes without end") {
    Guest guest([](const std::string&) { return std::string(1U << 20U, 'x'); });
    GuestAgent agent(guest.take_host_end());
    CHECK_FALSE(agent.greet({60s, {}}));
  }
  SECTION("it writes nested JSON without end") {
    Guest guest([](const std::string&) { return std::string(30000, '[') + "\n"; });
    GuestAgent agent(guest.take_host_end());
    CHECK_FALSE(agent.greet({50ms, {}}));
  }
  SECTION("it is silent") {
    Guest guest([](const std::string&) { return std::string(); });
    GuestAgent agent(guest.take_host_end());
    CHECK_FALSE(agent.greet({50ms, {}}));
    std::stop_source stop;
    stop.request_stop();
    CHECK_FALSE(agent.greet({10min, stop.get_token()}));
  }
  SECTION("it is gone") {
    auto [here, there] = make_socket_pair();
    there.reset();
    GuestAgent agent(std::move(here));
    CHECK_FALSE(agent.greet({10min, {}}));
  }
}

TEST_CASE("an agent runs a program and returns its exit code", "[vm]") {
  std::vector<std::string> told;
  Guest guest([&](const std::string& line) -> std::string {
    told.push_back(line);
    if (told.size() == 1) return "{\"return\": {\"pid\": 17}}\n";
    if (told.size() == 2) return "{\"return\": {\"exited\": false}}\n";
    return "{\"return\": {\"exited\": true, \"exitcode\": 3}}\n";
  });
  GuestAgent agent(guest.take_host_end());
  CHECK(agent.run("/bin/sh", {"-c", "exit 3"}, {60s, {}}) == 3);
  REQUIRE(told.size() == 3);
  CHECK(told[0] == R"({"arguments":{"arg":["-c","exit 3"],"path":"/bin/sh"},"execute":"guest-exec"})");
  CHECK(told[2] == R"({"arguments":{"pid":17},"execute":"guest-exec-status"})");
}

TEST_CASE("run() waits for an endless program, or for an invalid answer, no longer than its time-out", "[vm]") {
  const std::string begun = "{\"return\": {\"pid\": 17}}\n";
  const auto [first, then] = GENERATE_COPY(table<std::string, std::string>({
      {"", ""},
      {"{\"error\": {\"class\": \"CommandNotFound\"}}\n", ""},
      {"{\"return\": 7}\n", ""},
      {"{\"return\": {\"pid\": [{}]}}\n", ""},
      {begun, ""},
      {begun, "{\"return\": {\"exited\": false}}\n"},
      {begun, "{\"return\": []}\n"},
      {begun, "{\"return\": {\"exited\": {}}}\n"},
      {begun, "{\"return\": {\"exited\": true, \"exitcode\": \"0\"}}\n"},
      {begun, "{\"return\": {\"exited\": true, \"signal\": 9}}\n"},
      {begun, "{\"error\": {}}\n"},
  }));
  bool is_first = true;
  Guest guest(
      [&, first = first, then = then](const std::string&) { return std::exchange(is_first, false) ? first : then; });
  GuestAgent agent(guest.take_host_end());
  CHECK_FALSE(agent.run("/bin/sh", {}, {200ms, {}}).has_value());
}
