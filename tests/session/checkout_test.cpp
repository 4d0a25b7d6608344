#include "session/checkout.h"

#include <catch2/catch.hpp>

#include "base/file_lock.h"
#include "base/whole_file.h"
#include "session/session.h"
#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;
using Place = test::CheckedOut;

TEST_CASE("checkout refuses a parcel that is checked out on this host", "[session]") {
  Place place;
  const auto refused = [&] {
    return test::kind_thrown([&] { check_out(place.account, place.parcel, LockMode::kAttended, {}, {}); });
  };
  const auto before = read_file(place.state_file(), 1 << 20);
  SECTION("before its daemon runs") { CHECK((refused() == ErrorKind::kVm)); }
  SECTION("while it is in use") {
    const Session session(place.account, place.parcel);
    CHECK((refused() == ErrorKind::kVm));
  }
  CHECK((read_file(place.state_file(), 1 << 20) == before));
  SECTION("while another process is about to write its description") {
    const auto flock = FileLock::try_acquire(place.state_file().parent_path() / "lock");
    fs::remove(place.state_file());
    CHECK((refused() == ErrorKind::kVm));
  }
  CHECK(place.account.lock(place.parcel).show()->record.s == 1);
}
