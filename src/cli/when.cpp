// Formats times for people: the more recent, the more precise.
#include <fmt/format.h>

#include <array>
#include <ctime>

#include "cli/output.h"

namespace isr {
namespace {

std::tm local_time(WallTime time) {
  const std::time_t seconds = time.time_since_epoch().count();
  std::tm out{};
  ::localtime_r(&seconds, &out);
  return out;
}

}  // namespace

std::string describe_when(WallTime time, WallTime now) {
  constexpr std::array<std::string_view, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const auto age = (now - time).count();
  if (age >= 0 && age < 60) return "just now";
  if (age >= 0 && age < 3600) return fmt::format("{} min ago", age / 60);
  const std::tm then = local_time(time);
  const std::tm today = local_time(now);
  const std::string clock = fmt::format("{:02}:{:02}", then.tm_hour, then.tm_min);
  if (then.tm_year == today.tm_year && then.tm_yday == today.tm_yday) return "today " + clock;
  const std::tm yesterday = local_time(now - std::chrono::hours(24));
  if (then.tm_year == yesterday.tm_year && then.tm_yday == yesterday.tm_yday) return "yesterday " + clock;
  const std::string day = fmt::format("{} {}", then.tm_mday, kMonths.at(static_cast<std::size_t>(then.tm_mon)));
  return then.tm_year == today.tm_year ? day : fmt::format("{} {}", day, then.tm_year + 1900);
}

}  // namespace isr
