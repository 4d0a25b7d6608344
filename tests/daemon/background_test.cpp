#include "daemon/background.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "support/error_kind.h"

using namespace isr;

TEST_CASE("a daemon that ends before it has read its keys is a failure to start, not a signal", "[daemon]") {
  const TempDirectory folder("isr-background");
  // What runs as the daemon is this program, which says something else and ends.
  const Bytes keys(1U << 20U);  // more than fits on the way
  CHECK((test::kind_thrown([&] { start_background({"--list-reporters"}, keys, folder.path() / "log"); }) ==
         ErrorKind::kDaemon));
}
