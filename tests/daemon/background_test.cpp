#include "daemon/background.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "support/error_kind.h"

using namespace isr;

TEST_CASE("start_background() throws kDaemon, and no SIGPIPE kills it, when the daemon ends before it reads its keys",
          "[daemon]") {
  const TempDirectory folder("isr-background");
  // start_background() runs this test program as the daemon. It prints something else and ends.
  const Bytes keys(1U << 20U);  // more than the socket's buffer holds
  CHECK((test::kind_thrown([&] { start_background({"--list-reporters"}, keys, folder.path() / "log"); }) ==
         ErrorKind::kDaemon));
}
