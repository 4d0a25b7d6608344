#include "daemon/background.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "support/error_kind.h"

using namespace isr;

TEST_CASE("a daemon that ends before it has read its keys is a failure to start, not a signal", "[daemon]") {
  const TempDirectory folder("isr-background");
  // start_background() runs this test program as the daemon. It prints something else and ends.
  const Bytes keys(1U << 20U);  // more than the socket's buffer holds
  CHECK((test::kind_thrown([&] { start_background({"--list-reporters"}, keys, folder.path() / "log"); }) ==
         ErrorKind::kDaemon));
}
