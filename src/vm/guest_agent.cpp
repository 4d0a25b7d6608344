// The agent speaks lines of JSON over a serial port. A request begins with 0xFF, which makes the agent discard half a
// line that it received before. Its answer begins with 0xFF, too, and everything before that is ignored.

#include "vm/guest_agent.h"

#include <nlohmann/json.hpp>

#include "base/crypto.h"
#include "base/error.h"

namespace isr {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kKept = 64U << 10U;
constexpr int kDeepest = 8;
constexpr std::chrono::milliseconds kAskAgain{50};
constexpr char kSentinel = '\xff';

std::optional<Json> parse_line(std::string_view line) {
  if (const auto sentinel = line.rfind(kSentinel); sentinel != std::string_view::npos) line.remove_prefix(sentinel + 1);
  bool deep = false;
  const auto watch = [&deep](int depth, Json::parse_event_t, const Json&) {
    deep = deep || depth > kDeepest;
    return !deep;
  };
  Json json = Json::parse(line.begin(), line.end(), watch, /*allow_exceptions=*/false);
  if (deep || !json.is_object()) return std::nullopt;
  return json;
}

std::uint64_t random_number() {
  Bytes bytes(4);
  random_bytes(bytes);
  return ByteReader(bytes, "random number").u32();
}

}  // namespace

// Greeting numbers begin at a random value, because an answer to another daemon's greeting may still be on its way.
GuestAgent::GuestAgent(UniqueFd connected) : stream_(std::move(connected), kKept), greetings_(random_number()) {
  stream_.start();
}

std::optional<Json> GuestAgent::hear(std::uint64_t offset, const Patience& patience,
                                     const std::function<bool(const Json&)>& wanted) const {
  const auto deadline = std::chrono::steady_clock::now() + patience.timeout;
  std::string rest;
  for (;;) {
    const auto said = stream_.since(offset, kKept);
    offset = said.end();
    rest += said.text;
    for (auto end = rest.find('\n'); end != std::string::npos; end = rest.find('\n')) {
      auto line = parse_line(std::string_view(rest).substr(0, end));
      if (line && wanted(*line)) return line;
      rest.erase(0, end + 1);
    }
    if (rest.size() > kKept) return std::nullopt;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0 || !stream_.wait_beyond(offset, left, patience.stop)) return std::nullopt;
  }
}

bool GuestAgent::greet(const Patience& patience) {
  const std::uint64_t number = ++greetings_;
  const std::uint64_t before = stream_.said();
  try {
    stream_.write(kSentinel + Json{{"execute", "guest-sync-delimited"}, {"arguments", {{"id", number}}}}.dump() + "\n",
                  patience.timeout);
  } catch (const Error&) {
    return false;  // the agent does not take the request
  }
  return hear(before, patience, [&](const Json& line) { return line.value("return", Json()) == number; }).has_value();
}

std::optional<Json> GuestAgent::ask(const std::string& command, const Json& arguments, const Patience& patience) {
  const std::uint64_t before = stream_.said();
  try {
    stream_.write(Json{{"execute", command}, {"arguments", arguments}}.dump() + "\n", patience.timeout);
  } catch (const Error&) {
    return std::nullopt;
  }
  const auto answer =
      hear(before, patience, [](const Json& line) { return line.contains("return") || line.contains("error"); });
  if (!answer || !answer->contains("return")) return std::nullopt;
  return answer->at("return");
}

std::optional<int> GuestAgent::run(const std::string& program, const std::vector<std::string>& arguments,
                                   const Patience& patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience.timeout;
  const auto left = [&]() -> Patience {
    return {std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()), patience.stop};
  };
  const auto begun = ask("guest-exec", {{"path", program}, {"arg", arguments}}, patience);
  if (!begun || !begun->is_object() || !begun->value("pid", Json()).is_number_integer()) return std::nullopt;
  while (left().timeout.count() > 0 && !patience.stop.stop_requested()) {
    const auto status = ask("guest-exec-status", {{"pid", begun->at("pid")}}, left());
    if (!status || !status->is_object()) return std::nullopt;
    if (status->value("exited", Json()) == true) {
      const Json code = status->value("exitcode", Json());  // absent when it was killed
      return code.is_number_integer() ? std::optional(code.get<int>()) : std::nullopt;
    }
    std::this_thread::sleep_for(std::min(kAskAgain, std::max(left().timeout, std::chrono::milliseconds(0))));
  }
  return std::nullopt;
}

bool GuestAgent::set_time(std::chrono::system_clock::time_point now, const Patience& patience) {
  const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch()).count();
  return ask("guest-set-time", {{"time", time}}, patience).has_value();
}

}  // namespace isr
