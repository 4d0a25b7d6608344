// Parses the text that people type for a parcel, a version or a time. Numbers are checked here: 0, negative numbers and
// those that no version can have are usage errors, not absent versions.
#include "cli/names.h"

#include <fmt/format.h>

#include <charconv>

#include "repository/sequence.h"

namespace isr {
namespace {

[[noreturn]] void refuse_version(std::string_view text) {
  throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is not a version", escaped(text)),
              {"write a number from 1, latest, latest~1 for the one before, or a fork such as desk-42-3f2a/41"});
}

std::uint64_t whole_number(std::string_view digits, std::string_view text) {
  std::uint64_t value = 0;
  const bool plain =
      !digits.empty() && std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (!plain || failure != std::errc() || end != digits.data() + digits.size() || value > kMaxSequence) {
    refuse_version(text);
  }
  return value;
}

/// The form that the log shows, without the leading zeros of the number.
std::string fork_name(std::string_view text) {
  const auto slash = text.rfind('/');
  const std::uint64_t n = whole_number(text.substr(slash + 1), text);
  std::string fork = fmt::format("{}/{}", text.substr(0, slash), n);
  try {
    check_fork_name(fork);
  } catch (const Error&) {
    refuse_version(text);
  }
  return fork;
}

}  // namespace

VersionSelector parse_version_selector(std::string_view text) {
  VersionSelector selector;
  selector.given = true;
  constexpr std::string_view kLatest = "latest";
  if (text.find('/') != std::string_view::npos) {
    selector.choice.fork = fork_name(text);
    return selector;
  }
  if (!text.starts_with(kLatest)) {
    selector.choice.number = whole_number(text, text);
    if (selector.choice.number == 0) refuse_version(text);
    return selector;
  }
  const auto rest = text.substr(kLatest.size());
  if (rest.empty()) return selector;
  if (rest[0] != '~') refuse_version(text);
  selector.choice.back = whole_number(rest.substr(1), text);
  return selector;
}

ParcelName parse_parcel_name(const std::string& text) {
  ParcelName name;
  std::string_view rest = text;
  if (const auto at = rest.find('@'); at != std::string_view::npos) {
    name.version = parse_version_selector(rest.substr(at + 1));
    rest = rest.substr(0, at);
  }
  if (const auto colon = rest.find(':'); colon != std::string_view::npos) {
    name.repository = std::string(rest.substr(0, colon));
    check_repository_name(name.repository);
    rest = rest.substr(colon + 1);
  }
  name.parcel = std::string(rest);
  check_parcel_name(name.parcel);
  return name;
}

ParcelName parse_new_parcel_name(const std::string& text) {
  ParcelName name = parse_parcel_name(text);
  if (name.version.given) throw Error(ErrorKind::kUsage, "a new parcel has no version yet");
  return name;
}

std::string new_parcel_name(const std::string& text) { return parse_new_parcel_name(text).parcel; }

void refuse_taken_name(Account& account, const std::string& name) {
  account.remote.online("making a parcel");
  for (const ParcelEntry& parcel : read_profile(account).parcels) {
    if (parcel.name == name) {
      throw Error(ErrorKind::kUsage, fmt::format("a parcel called {} exists", name), {"isr ls"});
    }
  }
}

std::chrono::seconds parse_duration(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const std::uint64_t scale = unit.empty() || unit == "s" ? 1
                              : unit == "m"               ? 60
                              : unit == "h"               ? 3600
                              : unit == "d"               ? 86400
                                                          : 0;
  // Ten years. A longer time is a typing error, and sums must not overflow.
  constexpr std::uint64_t kLongest = 10ULL * 366 * 86400;
  if (failure != std::errc() || scale == 0 || value > kLongest / scale) {
    throw Error(ErrorKind::kUsage, fmt::format("\"{}\" is not a time", escaped(text)),
                {"write for example 90s, 5m, 12h or 2d"});
  }
  return std::chrono::seconds(value * scale);
}

}  // namespace isr
