#include "daemon/protocol.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "daemon/control_server.h"
#include "support/error_kind.h"

using namespace isr;
using nlohmann::json;
using test::kind_thrown;

namespace {

std::string golden(const std::string& name) {
  std::string text(as_text(read_file(fs::path(ISR_GOLDEN_DIR) / "control" / (name + ".json"), kMaxControlLine)));
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

const CommonPart kSomeCommon{.settings = EncodedSettings{{"cache.dir", "L2NhY2hl"}, {"vm.memory", "auto"}},
                             .online = true,
                             .steal_reason = "--take-lock"};
const BootPart kSomeBoot{
    .network = NetworkMode::kUser, .isolate_network = true, .accelerator = "tcg", .cdrom = fs::path("/tmp/\xff.iso")};

std::vector<Request> some_requests() {
  return {StatusRequest{},
          StartRequest{kSomeCommon, kSomeBoot},
          ResumeRequest{kSomeCommon, kSomeBoot, Prefetch::kWorkingSet},
          OwnLockRequest{kSomeCommon},
          SuspendRequest{kSomeCommon, false, "evening"},
          StopRequest{kSomeCommon, std::chrono::seconds(90), true, "evening"},
          PowerOffRequest{},
          SyncRequest{},
          CheckinRequest{{{}, true, {}}},
          DiscardRequest{},
          ConsoleRequest{7, true},
          TypeRequest{"ls\n"}};
}

Status some_status() {
  Status status;
  status.id = "00112233445566778899aabbccddeeff";
  status.session.parcel = "work";
  status.session.version = 4;
  status.session.content = 3;
  status.session.phase = SessionPhase::kRunning;
  status.session.since = from_rfc3339("2026-11-27T08:00:00Z").value();
  status.session.changed_bytes = 131072;
  status.session.journal_bytes = 65536;
  status.session.uploaded_bytes = 5;
  status.session.boot_pack_pages = 6;
  status.session.images = {{"disk", 1048576, 1, 2, 3, 4, 5, 6, 7, 8}};
  status.session.sources = {1, 2, 3, 4, 5, 6, 7, "repository: no route", {{"cache", 1, 9, 8, 6}}};
  status.session.fetching_ahead = FetchingAhead{10, 9, true};
  status.session.memory = MemoryHere{20, 20, from_rfc3339("2026-11-27T08:01:00Z")};
  status.mount = "/run/\xff/mnt";
  status.daemon_pid = 42;
  status.vm = VmStats{43, "running", true, false, {"tcg", "as configured"}, "private", "set", "/run/\xff/vnc"};
  status.lock_lost = true;
  status.last_event = "the guest has switched itself off";
  status.busy = "sync";
  status.memory_waits_for = "no space";
  return status;
}

BootAnswer some_boot_answer() {
  return {true, NetworkMode::kRestricted, {"kvm", "KVM works here"}, true, 12, "/run/mnt", {"cache.size"}};
}

PublishAnswer some_publish_answer() {
  return {{5, true, "desk-42-3f2a/5", true, 6, 7}, true, true, 1.5, LockReturn::kLater, {}};
}

/// Checks that the answer is written as its golden line, and that reading and writing the line keeps it.
template <class Answer>
void check_answer(const std::string& name, const Answer& answer) {
  CAPTURE(name);
  const std::string line = golden("answer-" + name);
  CHECK(encode_answer(answer).dump() == line);
  CHECK(encode_answer(parse_answer<Answer>(json::parse(line))).dump() == line);
}

template <class Progress>
void check_progress(const std::string& name, const Progress& progress) {
  const std::string line = golden("progress-" + name);
  CHECK(encode_progress(progress).dump() == line);
  CHECK(encode_progress(parse_progress<Progress>(json::parse(line))).dump() == line);
}

bool is_refused(const json& request) {
  return kind_thrown([&] { parse_request(request); }) == ErrorKind::kUsage;
}

/// Wrong values for a field. Each field refuses most of them.
const std::vector<json> kWrongValues{nullptr, true, -1, 0.5, 1e300, "?", json::array({1}), json{{"a", 1}}};

/// Checks that a line without one of its fields is refused, unless the field is optional.
template <class Parse>
void check_each_field_is_wanted(const json& line, const std::vector<std::string>& optional, const Parse& parse) {
  for (const auto& [name, value] : line.items()) {
    CAPTURE(line.dump(), name);
    json without = line;
    without.erase(name);
    const bool is_optional = std::find(optional.begin(), optional.end(), name) != optional.end();
    CHECK(kind_thrown([&] { parse(without); }).has_value() != is_optional);
  }
}

/// Checks each field with each wrong value: parse() throws only Error, and refuses all but those that the field may
/// have.
template <class Parse>
void check_wrong_values(const json& line, const Parse& parse) {
  for (const auto& [name, value] : line.items()) {
    int refused = 0;
    for (const json& wrong : kWrongValues) {
      CAPTURE(line.dump(), name, wrong.dump());
      json changed = line;
      changed[name] = wrong;
      std::optional<ErrorKind> kind;
      REQUIRE_NOTHROW(kind = kind_thrown([&] { parse(changed); }));
      if (kind) ++refused;
    }
    CAPTURE(line.dump(), name);
    CHECK(refused >= 6);
  }
}

}  // namespace

TEST_CASE("a request equals its golden line when it is written, and is the same when it was read", "[daemon]") {
  for (const Request& request : some_requests()) {
    const std::string line = golden("request-" + std::string(command_of(request)));
    CHECK(encode_request(request).dump() == line);
    const Request again = parse_request(json::parse(line));
    CHECK(again.index() == request.index());
    CHECK(encode_request(again).dump() == line);
  }
  CHECK(some_requests().size() == std::variant_size_v<Request>);
}

TEST_CASE("an answer or progress line equals its golden line when it is written, and is the same when it was read",
          "[daemon]") {
  check_answer("status", some_status());
  check_answer("status-idle", Status{});
  check_answer("boot", some_boot_answer());
  check_answer("publish", some_publish_answer());
  check_answer("publish-kept", PublishAnswer{{5, false, "", false, 0, 0}, false, false, {}, {}, {}});
  check_answer("version", VersionAnswer{5, {"cache.size", "lock.lease"}});
  check_answer("done", DoneAnswer{});
  check_answer("console", ConsoleAnswer{9, true});
  check_answer("type", TypeAnswer{});
  check_progress("step", ProgressLine{"upload", 5, 10});
  check_progress("console", ConsoleLine{"login: ", 7});
}

TEST_CASE("a line keeps a path when it is not valid UTF-8", "[daemon]") {
  const auto request = std::get<StartRequest>(parse_request(encode_request(StartRequest{{}, kSomeBoot})));
  CHECK(request.boot.cdrom == kSomeBoot.cdrom);
  const Status status = parse_answer<Status>(encode_answer(some_status()));
  CHECK(status.mount == some_status().mount);
  CHECK(status.vm.value().vnc_socket == some_status().vm.value().vnc_socket);
}

TEST_CASE("parse_request() throws kUsage when a field is missing or unknown", "[daemon]") {
  for (const Request& request : some_requests()) {
    json line = encode_request(request);
    check_each_field_is_wanted(line, {"settings", "steal_reason", "network", "cdrom"}, parse_request);
    line["extra"] = 1;
    CHECK(is_refused(line));
  }
  for (const json& line : {json::object(), json::array(), json(7), json(nullptr), json{{"command", 7}},
                           json{{"command", ""}}, json{{"command", "format"}}}) {
    CHECK(is_refused(line));
  }
}

TEST_CASE("parse_request() throws kUsage when a field has a wrong value", "[daemon]") {
  for (const Request& request : some_requests()) check_wrong_values(encode_request(request), parse_request);
  const auto changed = [](const Request& request, const char* name, const json& value) {
    json line = encode_request(request);
    line[name] = value;
    return line;
  };
  CHECK(is_refused(changed(StartRequest{}, "network", "bridge")));
  CHECK(is_refused(changed(StartRequest{}, "accelerator", "xen")));
  CHECK(is_refused(changed(StartRequest{}, "cdrom", "/no/base64")));
  CHECK(is_refused(changed(StartRequest{}, "settings", json{{"vm.memory", 1}})));
  CHECK(is_refused(changed(ResumeRequest{}, "prefetch", "some")));
  CHECK(is_refused(changed(StopRequest{}, "timeout_s", 10ULL * 366 * 86400 + 1)));
  CHECK_FALSE(is_refused(changed(StopRequest{}, "timeout_s", 10ULL * 366 * 86400)));
}

TEST_CASE("parse_answer() throws kCorrupt when a field is missing, unknown or wrong", "[daemon]") {
  const json status = encode_answer(some_status());
  const auto parse = [](const json& line) { return parse_answer<Status>(line); };
  check_each_field_is_wanted(status, {"vm", "fetching_ahead", "memory"}, parse);
  check_wrong_values(status, parse);
  for (const char* inner : {"sources", "fetching_ahead", "memory", "vm"}) {
    const auto parse_inner = [&](const json& part) {
      json line = status;
      line[inner] = part;
      return parse(line);
    };
    check_each_field_is_wanted(status.at(inner), {"offline_safe_since"}, parse_inner);
    check_wrong_values(status.at(inner), parse_inner);
  }
  json more = status;
  more["sources"]["extra"] = 1;
  CHECK(kind_thrown([&] { parse(more); }) == ErrorKind::kCorrupt);
  more = status;
  more["images"][0].erase("size");
  CHECK(kind_thrown([&] { parse(more); }) == ErrorKind::kCorrupt);
  more = status;
  more["phase"] = "flying";
  CHECK(kind_thrown([&] { parse(more); }) == ErrorKind::kCorrupt);
  check_wrong_values(encode_answer(some_boot_answer()), parse_answer<BootAnswer>);
  check_wrong_values(encode_answer(some_publish_answer()), parse_answer<PublishAnswer>);
  check_wrong_values(encode_answer(VersionAnswer{}), parse_answer<VersionAnswer>);
  check_wrong_values(encode_progress(ConsoleLine{}), parse_progress<ConsoleLine>);
  CHECK(kind_thrown([] { parse_progress<ProgressLine>(json::array()); }) == ErrorKind::kCorrupt);
}

TEST_CASE("publishes() is true when a request publishes, and common_part() is null when it changes nothing",
          "[daemon]") {
  for (const Request& request : some_requests()) {
    const std::string_view command = command_of(request);
    CAPTURE(std::string(command));
    const bool publishing = command == "suspend" || command == "stop" || command == "sync" || command == "checkin";
    CHECK(publishes(request) == publishing);
    const bool changes_nothing = command == "status" || command == "console" || command == "type";
    CHECK((common_part(request) == nullptr) == changes_nothing);
  }
}

TEST_CASE("ask() passes on progress and returns the answer when the daemon answers", "[daemon]") {
  TempDirectory directory;
  const fs::path socket = directory.path() / "ctl" / "parcel";
  const auto server =
      start_control_server(socket, [](const json& line, const ControlReply& reply, const std::stop_token&) -> json {
        const Request request = parse_request(line);
        if (std::holds_alternative<StatusRequest>(request)) return {{"version", 1}};  // not a status
        reply(encode_progress(ConsoleLine{"hello", std::get<ConsoleRequest>(request).offset}));
        return encode_answer(ConsoleAnswer{8, true});
      });
  std::string heard;
  const ConsoleAnswer answer =
      ask(socket, ConsoleRequest{.offset = 3}, [&](const ConsoleLine& line) { heard += line.text; });
  CHECK(answer.offset == 8);
  CHECK(answer.ended);
  CHECK(heard == "hello");
  CHECK(kind_thrown([&] { ask(socket, StatusRequest{}); }) == ErrorKind::kDaemon);
}
