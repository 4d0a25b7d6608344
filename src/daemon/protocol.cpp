#include "daemon/protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "daemon/protocol_fields.h"
#include "vm/accelerator.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kLongestTimeout{10LL * 366 * 86400};
constexpr std::uint64_t kMaxPid = INT_MAX;

/// A line that is read: its name in messages, and the error kind of its faults.
struct Subject {
  std::string_view what;
  ErrorKind fault;
};

[[noreturn]] void refuse(const Subject& subject, std::string_view field, std::string_view why) {
  throw Error(subject.fault, fmt::format("{}: field \"{}\" {}", subject.what, field, why));
}

template <class T>
concept Named = std::is_enum_v<T>;

// --- writing -----------------------------------------------------------------

template <class T>
json to_value(const T& value);

struct Writer {
  json& out;

  template <class T>
  void operator()(const char* name, const T& value) {
    out[name] = to_value(value);
  }
  template <class T>
  void operator()(const char* name, const std::optional<T>& value) {
    if (value) (*this)(name, *value);
  }
};

template <class T>
json write_object(T value) {
  json out = json::object();
  Writer writer{out};
  list_fields(writer, value);
  return out;
}

template <class T>
json to_value(const T& value) {
  if constexpr (std::is_same_v<T, fs::path>) {
    return encode_path(value);
  } else if constexpr (std::is_same_v<T, WallTime>) {
    return to_rfc3339(value);
  } else if constexpr (std::is_same_v<T, std::chrono::seconds>) {
    return static_cast<std::uint64_t>(value.count());
  } else if constexpr (std::is_same_v<T, pid_t>) {
    return static_cast<std::uint64_t>(value);
  } else if constexpr (std::is_same_v<T, std::vector<ImageStats>> || std::is_same_v<T, std::vector<TierTotals>>) {
    json list = json::array();
    for (const auto& one : value) list.push_back(write_object(one));
    return list;
  } else if constexpr (Named<T>) {
    return std::string(to_name(value));
  } else if constexpr (std::is_constructible_v<json, T>) {
    return json(value);
  } else {
    return write_object(value);
  }
}

// --- reading -----------------------------------------------------------------

/// Reads the fields of a JSON object; each must be read once. expect_end() refuses all others.
class Reader {
 public:
  Reader(const json& in, const Subject& subject) : in_(in), subject_(subject) {
    if (!in.is_object()) throw Error(subject.fault, fmt::format("{}: not a JSON object", subject.what));
  }

  template <class T>
  void operator()(const char* name, T& value) {
    const auto found = in_.find(name);
    if (found == in_.end()) refuse(subject_, name, "is missing");
    ++read_;
    take(name, *found, value);
  }
  template <class T>
  void operator()(const char* name, std::optional<T>& value) {
    if (in_.contains(name)) (*this)(name, value.emplace());
  }

  void expect_end(std::size_t others = 0) const {
    if (in_.size() != read_ + others) {
      throw Error(subject_.fault, fmt::format("{}: it has an unknown field", subject_.what));
    }
  }

 private:
  void require(bool holds, const char* name, std::string_view why) const {
    if (!holds) refuse(subject_, name, why);
  }

  std::uint64_t number(const char* name, const json& in, std::uint64_t max) const {
    require(in.is_number_unsigned(), name, "is not a whole number");
    require(in.get<std::uint64_t>() <= max, name, "is out of range");
    return in.get<std::uint64_t>();
  }
  const std::string& text(const char* name, const json& in) const {
    require(in.is_string(), name, "is not text");
    return in.get_ref<const std::string&>();
  }

  void take(const char* name, const json& in, bool& value) const {
    require(in.is_boolean(), name, "is neither true nor false");
    value = in.get<bool>();
  }
  void take(const char* name, const json& in, std::uint64_t& value) const { value = number(name, in, UINT64_MAX); }
  void take(const char* name, const json& in, pid_t& value) const {
    value = static_cast<pid_t>(number(name, in, kMaxPid));
  }
  void take(const char* name, const json& in, std::chrono::seconds& value) const {
    value = std::chrono::seconds(number(name, in, kLongestTimeout.count()));
  }
  void take(const char* name, const json& in, double& value) const {
    require(in.is_number(), name, "is not a number");
    value = in.get<double>();
    require(value >= 0, name, "is out of range");
  }
  void take(const char* name, const json& in, std::string& value) const { value = text(name, in); }
  void take(const char* name, const json& in, fs::path& value) const {
    const auto bytes = from_base64(text(name, in));
    require(bytes.has_value(), name, "is not valid base64");
    value = std::string(as_text(*bytes));
  }
  void take(const char* name, const json& in, WallTime& value) const {
    const auto time = from_rfc3339(text(name, in));
    require(time.has_value(), name, "is not a time");
    value = *time;
  }
  void take(const char* name, const json& in, std::vector<std::string>& value) const {
    require(in.is_array(), name, "is not a list");
    for (const json& one : in) value.push_back(text(name, one));
  }
  void take(const char* name, const json& in, EncodedSettings& value) const {
    require(in.is_object(), name, "is not an object");
    for (const auto& [key, one] : in.items()) value[key] = text(name, one);
  }
  template <class T>
  void take(const char* name, const json& in, std::vector<T>& value) const {
    require(in.is_array(), name, "is not a list");
    for (const json& one : in) take(name, one, value.emplace_back());
  }
  void take(const char* name, const json& in, SessionPhase& value) const {
    take_name(name, in, value, {SessionPhase::kCheckedOut, SessionPhase::kRunning, SessionPhase::kSuspended});
  }
  void take(const char* name, const json& in, NetworkMode& value) const {
    take_name(name, in, value, {NetworkMode::kNone, NetworkMode::kRestricted, NetworkMode::kUser});
  }
  void take(const char* name, const json& in, Prefetch& value) const {
    take_name(name, in, value, {Prefetch::kNone, Prefetch::kWorkingSet, Prefetch::kAll});
  }
  void take(const char* name, const json& in, LockReturn& value) const {
    take_name(name, in, value, {LockReturn::kDone, LockReturn::kLater, LockReturn::kMoved});
  }
  template <Named T>
  void take_name(const char* name, const json& in, T& value, std::initializer_list<T> all) const {
    const std::string& wanted = text(name, in);
    const auto found = std::find_if(all.begin(), all.end(), [&](T one) { return to_name(one) == wanted; });
    require(found != all.end(), name, "has an unknown value");
    value = *found;
  }
  template <class T>
    requires std::is_class_v<T>
  void take(const char*, const json& in, T& value) const {
    Reader inner(in, subject_);
    list_fields(inner, value);
    inner.expect_end();
  }

  const json& in_;
  Subject subject_;
  std::size_t read_ = 0;
};

constexpr Subject kAnswer{"an answer of the session daemon", ErrorKind::kCorrupt};
constexpr Subject kProgress{"a progress line of the session daemon", ErrorKind::kCorrupt};

template <std::size_t kIndex = 0>
Request default_request(std::string_view command) {
  if constexpr (kIndex == std::variant_size_v<Request>) {
    throw Error(ErrorKind::kUsage, fmt::format("the session daemon knows no command \"{}\"", escaped(command)));
  } else {
    using OneRequest = std::variant_alternative_t<kIndex, Request>;
    if (command == OneRequest::kCommand) return OneRequest{};
    return default_request<kIndex + 1>(command);
  }
}

}  // namespace

std::string_view command_of(const Request& request) noexcept {
  return std::visit([](const auto& one) { return one.kCommand; }, request);
}

const CommonPart* common_part(const Request& request) noexcept {
  return std::visit(
      [](const auto& one) -> const CommonPart* {
        if constexpr (requires { one.common; }) return &one.common;
        return nullptr;
      },
      request);
}

bool publishes(const Request& request) noexcept {
  return std::visit([](const auto& one) { return requires { one.kPublishes; }; }, request);
}

json encode_request(const Request& request) {
  json line = std::visit([](const auto& one) { return write_object(one); }, request);
  line["command"] = command_of(request);
  return line;
}

Request parse_request(const json& line) {
  std::string command;
  Reader beginning(line, {"a request to the session daemon", ErrorKind::kUsage});
  beginning("command", command);
  Request request = default_request(command);
  const std::string what = fmt::format("a request \"{}\" to the session daemon", command);
  Reader reader(line, {what, ErrorKind::kUsage});
  std::visit([&](auto& one) { list_fields(reader, one); }, request);
  reader.expect_end(1);
  std::visit(
      [](const auto& one) {
        if constexpr (requires { one.boot; }) parse_accelerator_choice(one.boot.accelerator);
      },
      request);
  return request;
}

json encode_answer(const AnyAnswer& answer) {
  return std::visit([](const auto& one) { return write_object(one); }, answer);
}

AnyAnswer parse_answer(const AnyAnswer& kind, const json& line) {
  AnyAnswer answer = kind;
  Reader reader(line, kAnswer);
  std::visit([&](auto& one) { list_fields(reader, one); }, answer);
  reader.expect_end();
  return answer;
}

json encode_progress(const AnyProgress& progress) {
  json line = std::visit([](const auto& one) { return write_object(one); }, progress);
  line["type"] = "progress";
  return line;
}

AnyProgress parse_progress(const AnyProgress& kind, const json& line) {
  AnyProgress progress = kind;
  std::string type;
  Reader reader(line, kProgress);
  reader("type", type);
  std::visit([&](auto& one) { list_fields(reader, one); }, progress);
  reader.expect_end();
  return progress;
}

json encode_stats(const SessionStats& stats) { return write_object(stats); }
json encode_stats(const FetchStats& stats) { return write_object(stats); }

AnyAnswer ask_any(const fs::path& socket, const Request& request, const OnProgress<AnyProgress>& progress,
                  std::stop_token stop) {
  const auto [answer, progress_line] = std::visit(
      [](const auto& one) -> std::pair<AnyAnswer, AnyProgress> {
        using OneRequest = std::decay_t<decltype(one)>;
        return {typename OneRequest::Answer{}, typename OneRequest::Progress{}};
      },
      request);
  ControlProgress on_line;
  if (progress) on_line = [&, kind = progress_line](const json& line) { progress(parse_progress(kind, line)); };
  const json line = control_request(socket, encode_request(request), on_line, std::move(stop));
  try {
    return parse_answer(answer, line);
  } catch (const Error& error) {
    throw Error(
        ErrorKind::kDaemon,
        fmt::format("the session daemon may be of another version of isr: {}; the command may have been carried out",
                    error.what()),
        {"isr ls, isr log NAME    show the present state"});
  }
}

}  // namespace isr
