#include "base/file_lock.h"

#include <catch2/catch.hpp>
#include <thread>

using namespace isr;

TEST_CASE("only one FileLock holds a file until it is destroyed", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "lock";
  auto lock = FileLock::try_acquire(path);
  REQUIRE(lock.has_value());
  CHECK_FALSE(FileLock::try_acquire(path).has_value());
  CHECK(FileLock::is_held(path));
  lock.reset();
  CHECK_FALSE(FileLock::is_held(path));
  CHECK(FileLock::try_acquire(path).has_value());
}

TEST_CASE("is_held() does not take the lock", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "lock";
  CHECK_FALSE(FileLock::is_held(path));
  FileLock::try_acquire(path);
  const std::jthread looker([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) FileLock::is_held(path);
  });
  int refused = 0;
  for (int i = 0; i < 2000; ++i) refused += FileLock::try_acquire(path) ? 0 : 1;
  CHECK(refused == 0);
}
