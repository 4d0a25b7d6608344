#include "repository/store_clock.h"

#include <catch2/catch.hpp>

using namespace isr;
using namespace std::chrono_literals;

TEST_CASE("a directory's clock is that of its file system", "[repository]") {
  const TempDirectory directory;
  WallTime host = wall_now() + 5h;
  StoreClock clock(directory.path(), [&] { return host; });
  const auto is_right = [&] { return std::chrono::abs(clock.now() - wall_now()) < 60s; };
  CHECK(is_right());
  CHECK(is_right());  // from what was measured
  host -= 9h;         // the host's clock was set
  CHECK(is_right());
  CHECK(fs::is_empty(directory.path()));
}

TEST_CASE("the host's clock is used when nothing can be written", "[repository]") {
  const WallTime host = wall_now() + 5h;
  StoreClock clock("/proc/self", [&] { return host; });
  CHECK((clock.now() == host));
  StoreClock absent("/nonexistent/isr", [&] { return host; });
  CHECK((absent.now() == host));
}

TEST_CASE("a directory's clock is measured again after a failure", "[repository]") {
  const TempDirectory directory;
  const WallTime host = wall_now() + 5h;
  StoreClock clock(directory.path() / "later", [&] { return host; });
  CHECK((clock.now() == host));
  fs::create_directory(directory.path() / "later");
  CHECK(std::chrono::abs(clock.now() - wall_now()) < 60s);
}
