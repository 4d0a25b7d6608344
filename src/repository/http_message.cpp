#include "repository/http_message.h"

#include <fmt/format.h>

#include <charconv>

#include "repository/blob_name.h"
#include "repository/blob_store.h"

namespace isr {
namespace {

constexpr std::string_view kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
constexpr std::string_view kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
constexpr std::string_view kEndLine = ".end\n";
constexpr std::string_view kMoreLine = ".more\n";

/// Decimal digits only, no sign, no blanks; nullopt also on overflow.
std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Cuts `text` at the first `mark`; nullopt when there is none.
std::optional<std::pair<std::string_view, std::string_view>> cut(std::string_view text, char mark) {
  const auto at = text.find(mark);
  if (at == std::string_view::npos) return std::nullopt;
  return std::pair(text.substr(0, at), text.substr(at + 1));
}

[[noreturn]] void bad_list(std::string_view why) {
  throw Error(ErrorKind::kCorrupt, fmt::format("the server's list {}", why));
}

}  // namespace

std::string_view without_blanks(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

std::string printable_excerpt(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 100)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  return out;
}

std::string to_http_date(WallTime time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(time - day);
  return fmt::format("{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT", kDays[std::chrono::weekday(day).c_encoding()],
                     static_cast<unsigned>(date.day()), kMonths[static_cast<unsigned>(date.month()) - 1],
                     static_cast<int>(date.year()), clock.hours().count(), clock.minutes().count(),
                     clock.seconds().count());
}

std::optional<WallTime> from_http_date(std::string_view text) {
  constexpr std::size_t kSize = 29;
  if (text.size() != kSize) return std::nullopt;
  unsigned month = 1;
  while (month <= 12 && kMonths[month - 1] != text.substr(8, 3)) ++month;
  const auto day = parse_number(text.substr(5, 2));
  const auto year = parse_number(text.substr(12, 4));
  const auto hour = parse_number(text.substr(17, 2));
  const auto minute = parse_number(text.substr(20, 2));
  const auto second = parse_number(text.substr(23, 2));
  if (month > 12 || !day || !year || !hour || !minute || !second) return std::nullopt;
  const std::chrono::year_month_day date(std::chrono::year(static_cast<int>(*year)), std::chrono::month(month),
                                         std::chrono::day(static_cast<unsigned>(*day)));
  if (!date.ok() || *hour > 23 || *minute > 59 || *second > 59) return std::nullopt;
  const WallTime time = std::chrono::sys_days(date) + std::chrono::seconds(*hour * 3600 + *minute * 60 + *second);
  // Formatting it again checks the weekday and every separator.
  if (to_http_date(time) != text) return std::nullopt;
  return time;
}

std::optional<std::chrono::milliseconds> parse_retry_after(std::string_view text, WallTime now) {
  constexpr std::uint64_t kLongest = 86'400;
  if (const auto seconds = parse_number(text)) return std::chrono::seconds(std::min(*seconds, kLongest));
  const auto date = from_http_date(text);
  if (!date) return std::nullopt;
  return std::clamp(*date - now, std::chrono::seconds(0), std::chrono::seconds(kLongest));
}

std::optional<ContentRange> parse_content_range(std::string_view text) {
  constexpr std::string_view kUnit = "bytes ";
  if (!text.starts_with(kUnit)) return std::nullopt;
  const auto halves = cut(text.substr(kUnit.size()), '/');
  const auto ends = halves ? cut(halves->first, '-') : std::nullopt;
  if (!ends) return std::nullopt;
  const auto first = parse_number(ends->first);
  const auto last = parse_number(ends->second);
  const auto total = parse_number(halves->second);
  if (!first || !last || !total || *first > *last || *last >= *total) return std::nullopt;
  return ContentRange{*first, *last, *total};
}

std::variant<WholeBlob, NotSatisfiable, PartOfBlob> parse_range(std::string_view header, std::uint64_t size) {
  constexpr std::string_view kUnit = "bytes=";
  if (!header.starts_with(kUnit)) return WholeBlob{};
  const auto ends = cut(header.substr(kUnit.size()), '-');
  if (!ends) return WholeBlob{};
  const auto first = parse_number(ends->first);
  const auto last = parse_number(ends->second);
  if (ends->first.empty()) {  // "-N": the last N bytes
    if (!last) return WholeBlob{};
    if (*last == 0 || size == 0) return NotSatisfiable{};
    return PartOfBlob{size - std::min(*last, size), size - 1};
  }
  if (!first || (!last && !ends->second.empty()) || (last && *last < *first)) return WholeBlob{};
  if (*first >= size) return NotSatisfiable{};
  return PartOfBlob{*first, last ? std::min(*last, size - 1) : size - 1};
}

std::string encode_list_page(const ListPage& page) {
  std::string out;
  for (const std::string& name : page.names) {
    out += name;
    out += '\n';
  }
  out += page.more ? kMoreLine : kEndLine;
  return out;
}

ListPage parse_list_page(ByteView body, std::string_view prefix, std::string_view after) {
  std::string_view rest = as_text(body);
  ListPage page;
  if (rest.ends_with(kMoreLine)) {
    page.more = true;
    rest.remove_suffix(kMoreLine.size());
  } else if (rest.ends_with(kEndLine)) {
    rest.remove_suffix(kEndLine.size());
  } else {
    bad_list("was cut short");
  }
  std::string_view last = after;
  while (!rest.empty()) {
    const auto line = cut(rest, '\n');
    if (!line) bad_list("holds a line without an end");
    const auto [name, others] = *line;
    if (!name.starts_with(prefix)) bad_list("holds a name that was not requested");
    if (name <= last) bad_list("is not sorted");
    if (is_blob_name(name)) page.names.emplace_back(name);  // other names are stray files
    last = name;
    rest = others;
  }
  if (page.more && page.names.empty()) bad_list("says that there is more but has no names");
  return page;
}

}  // namespace isr
