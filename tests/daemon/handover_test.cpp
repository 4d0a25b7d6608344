#include "daemon/handover.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "daemon/session_daemon.h"
#include "support/account_place.h"

using namespace isr;

TEST_CASE("a handover keeps an address and paths when they are not valid UTF-8", "[daemon]") {
  test::AccountPlace place;
  place.account.remote.entry.url = "/tmp/\xff/repository";
  place.account.host.paths.runtime = "/run/\xff";
  ParcelEntry parcel;
  parcel.id = std::string(32, '0');
  parcel.name = "work";
  const Handover handover = parse_handover(serialise_handover(place.account, parcel, ""));
  CHECK(handover.entry.url == place.account.remote.entry.url);
  CHECK(handover.paths.runtime == place.account.host.paths.runtime);
}
