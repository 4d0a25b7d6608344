#include "vm/qmp_client.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/sync.h"
#include "support/error_kind.h"
#include "support/qmp_peer.h"

using namespace isr;
using test::kind_thrown;
using test::QmpPeer;
using test::QmpRequest;

namespace {

const Patience kLong{std::chrono::seconds(30), {}};
const Patience kShort{std::chrono::milliseconds(20), {}};

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a QMP conversation", "[vm]") {
  SECTION("returns QEMU's version and results") {
    QmpPeer peer([](QmpRequest& r) { return r.answer(R"({"status": "paused", "running": false})"); });
    QmpClient client(peer.take_client_end(), {});
    CHECK(client.handshake(kLong) == "7.2.22");
    CHECK(client.execute("query-status", kLong).at("status") == "paused");
    CHECK_FALSE(client.ended());
  }
  SECTION("hands over arguments and a descriptor") {
    std::string heard;
    bool same_file = false;
    QmpPeer peer([&](QmpRequest& r) {
      heard += r.line + "\n";
      if (r.fd) same_file = ::lseek(r.fd.get(), 0, SEEK_END) == 4096;
      return r.answer();
    });
    QmpClient client(peer.take_client_end(), {});
    client.handshake(kLong);
    const UniqueFd file(::memfd_create("test", MFD_CLOEXEC));
    REQUIRE(::ftruncate(file.get(), 4096) == 0);
    client.send_fd("state", file.get(), kLong);
    client.execute("migrate", {{"uri", "fd:state"}}, kLong);
    CHECK(same_file);
    CHECK(heard.find(R"("arguments":{"fdname":"state"})") != std::string::npos);
    CHECK(heard.find(R"("arguments":{"uri":"fd:state"})") != std::string::npos);
  }
  SECTION("reports QEMU's refusals in QEMU's words") {
    QmpPeer peer([](QmpRequest& r) {
      return R"({"id": )" + r.id() + R"(, "error": {"class": "GenericError", "desc": "Device not found"}})" + "\n";
    });
    QmpClient client(peer.take_client_end(), {});
    client.handshake(kLong);
    CHECK(message_of([&] { client.execute("eject", kLong); }) == "QEMU refused eject: Device not found (GenericError)");
    CHECK_FALSE(client.ended());
  }
  SECTION("passes events on, even in pieces and between answers") {
    Sync<std::vector<std::string>> heard;
    QmpPeer peer([](QmpRequest& r) {
      return R"({"event": "STOP", "timestamp": {"seconds": 1}})"
             "\n" +
             r.answer() +
             R"({"event": "SHUTDOWN", "data": {"guest": true}})"
             "\r\n\r\n";
    });
    QmpClient client(peer.take_client_end(), [&](const QmpEvent& e) { heard.lock()->push_back(e.name + e.data); });
    client.handshake(kLong);
    client.execute("stop", kLong);
    client.execute("stop", kLong);  // the events of the first are in by then
    const std::vector<std::string> events = *heard.lock();
    REQUIRE(events.size() >= 3);
    CHECK(events[0] == "STOP{}");
    CHECK(events[1] == R"(SHUTDOWN{"guest":true})");
  }
  SECTION("gives each of many callers its own answer") {
    QmpPeer peer([](QmpRequest& r) { return r.answer(r.id()); });
    QmpClient client(peer.take_client_end(), {});
    client.handshake(kLong);
    std::atomic<int> wrong = 0;
    std::vector<std::jthread> callers;
    for (int i = 0; i < 4; ++i)
      callers.emplace_back([&] {
        std::uint64_t last = 0;
        for (int n = 0; n < 50; ++n) {
          const auto id = client.execute("query-name", kLong).get<std::uint64_t>();
          if (id <= last) ++wrong;
          last = id;
        }
      });
    callers.clear();
    CHECK(wrong == 0);
  }
}

TEST_CASE("a QMP peer that misbehaves ends the conversation, and no caller hangs", "[vm]") {
  const auto failure_of = [](const std::function<std::optional<std::string>(QmpRequest&)>& script) {
    QmpPeer peer(script);
    QmpClient client(peer.take_client_end(), {});
    client.handshake(kLong);
    const auto kind = kind_thrown([&] { client.execute("query-status", kLong); });
    CHECK((kind == ErrorKind::kVm));
    CHECK(client.ended());
    CHECK((kind_thrown([&] { client.execute("query-status", kLong); }) == ErrorKind::kVm));
    return message_of([&] { client.execute("query-status", kLong); });
  };
  CHECK(failure_of([](QmpRequest&) { return std::nullopt; }) == "QEMU closed the connection");
  CHECK(failure_of([](QmpRequest&) { return "no json at all\n"; }) == "QMP: a line is not a JSON object");
  CHECK(failure_of([](QmpRequest&) { return "{\"hello\": 1}\n"; }).starts_with("QMP: a message of an unknown kind"));
  CHECK(failure_of([](QmpRequest&) { return "{\"return\": {}, \"id\": 99}\n"; }) == "QMP: an answer without a request");
  CHECK(failure_of([](QmpRequest&) { return "{\"return\": {}, \"id\": \"x\"}\n"; }) == "QMP: an unknown id");
  CHECK(failure_of([](QmpRequest&) { return test::kQmpGreeting; }) == "QMP: a second greeting");
  CHECK(failure_of([](QmpRequest&) { return std::string(QmpReader::kMaxLine + 2, 'x'); }) == "QMP: a line is too long");
  CHECK(failure_of([](QmpRequest&) { return "{\"return\": " + std::string(9000, '[') + "\n"; }) ==
        "QMP: nested too deep");
}

TEST_CASE("a QMP peer that dies within an answer is reported as gone", "[vm]") {
  QmpPeer peer([said = false](QmpRequest&) mutable -> std::optional<std::string> {
    if (std::exchange(said, true)) return std::nullopt;
    return "{\"return\": {\"sta";
  });
  QmpClient client(peer.take_client_end(), {});
  client.handshake(kLong);
  CHECK(message_of([&] { client.execute("query-status", kShort); }) == "QEMU did not answer query-status within 20 ms");
  CHECK(message_of([&] { client.execute("query-status", kLong); }) == "QEMU closed the connection");
}

TEST_CASE("an answer that comes too late is not taken for the next one", "[vm]") {
  std::string late;
  QmpPeer peer([&](QmpRequest& r) -> std::optional<std::string> {
    if (r.is("stop")) {
      late = r.answer("\"late\"");
      return "";
    }
    return late + r.answer("\"right\"");
  });
  QmpClient client(peer.take_client_end(), {});
  client.handshake(kLong);
  CHECK((kind_thrown([&] { client.execute("stop", kShort); }) == ErrorKind::kVm));
  CHECK(client.execute("query-status", kLong) == "right");
}

TEST_CASE("a QMP wait ends at once when it is cancelled", "[vm]") {
  std::stop_source stop;
  QmpPeer peer([&](QmpRequest&) {
    stop.request_stop();
    return "";
  });
  QmpClient client(peer.take_client_end(), {});
  client.handshake(kLong);
  CHECK((kind_thrown([&] {
           client.execute("stop", {std::chrono::minutes(10), stop.get_token()});
         }) == ErrorKind::kCancelled));
}

TEST_CASE("a silent or broken greeting fails the handshake", "[vm]") {
  const auto never = [](QmpRequest&) { return std::optional<std::string>(""); };
  {
    QmpPeer peer(never, "");
    QmpClient client(peer.take_client_end(), {});
    CHECK((kind_thrown([&] { client.handshake(kShort); }) == ErrorKind::kVm));
  }
  for (const char* greeting : {"SSH-2.0-OpenSSH\r\n", "{\"QMP\": 7}\n", "{\"QMP\": {\"version\": {\"qemu\": {}}}}\n"}) {
    QmpPeer peer(never, greeting);
    QmpClient client(peer.take_client_end(), {});
    CHECK((kind_thrown([&] { client.handshake(kLong); }) == ErrorKind::kVm));
  }
}
