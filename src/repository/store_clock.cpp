// now() writes to an unnamed file in the directory and reads the date that the file system gave it. The difference to
// the host's clock is kept for ten minutes. It is measured again at once when the host's clock was set, which shows as
// a disagreement with the time since boot.
#include "repository/store_clock.h"

#include <sys/stat.h>

#include <cstdint>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::chrono::minutes kHolds{10};
constexpr std::chrono::seconds kJump{2};

}  // namespace

StoreClock::StoreClock(fs::path directory, std::function<WallTime()> host_clock)
    : directory_(std::move(directory)), host_clock_(std::move(host_clock)) {}

bool StoreClock::is_current(const Measured& measured, WallTime host_now) const {
  const auto passed = boot_time() - measured.boot_time;
  return passed < kHolds && std::chrono::abs((host_now - measured.host_time) - passed) < kJump;
}

std::optional<StoreClock::Measured> StoreClock::measure() const {
  std::optional<WallTime> dated;
  try {
    const UniqueFd file = open_unnamed_file(directory_);
    const std::uint8_t byte = 0;
    write_all_at(file.get(), {&byte, 1}, 0, directory_);
    sync_file(file.get(), directory_);  // a file server sets the date when it receives the data
    struct stat status {};
    if (::fstat(file.get(), &status) == 0) dated = WallTime{std::chrono::seconds(status.st_mtim.tv_sec)};
  } catch (const Error&) {
  }
  if (!dated) return std::nullopt;
  const WallTime host_now = host_clock_();
  return Measured{*dated - host_now, boot_time(), host_now};
}

WallTime StoreClock::now() {
  auto measured = measured_.lock();
  if (!*measured || !is_current(**measured, host_clock_())) *measured = measure();
  return host_clock_() + (*measured ? (*measured)->ahead : std::chrono::seconds(0));
}

}  // namespace isr
