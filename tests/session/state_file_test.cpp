#include "session/state_file.h"

#include <catch2/catch.hpp>

#include "support/error_kind.h"
#include "support/session_parts.h"

using namespace isr;

TEST_CASE("StateFile reports kNotFound and makes nothing when the parcel is not checked out", "[session]") {
  const test::ParcelPlace place;
  CHECK((test::kind_thrown([&] { StateFile(place.account.host, place.parcel); }) == ErrorKind::kNotFound));
  CHECK_FALSE(fs::exists(place.account.host.parcel_directory(place.parcel)));
}

TEST_CASE("change() changes memory and file, or neither when the file cannot be written", "[session]") {
  const test::CheckedOut place;
  StateFile state(place.account.host, place.parcel);
  state.change([](SessionState& next) { next.upload_begun = true; });
  CHECK(state.now().upload_begun);
  CHECK(place.written().upload_begun);
  const auto refused = [](SessionState& next) {
    next.upload_begun = false;
    throw Error(ErrorKind::kVm, "refused");
  };
  CHECK((test::kind_thrown([&] { state.change(refused); }) == ErrorKind::kVm));
  {
    const test::UnwritableState unwritable(place);
    CHECK_THROWS(state.change([](SessionState& next) { next.upload_begun = false; }));
  }
  CHECK(state.now().upload_begun);
  CHECK(place.written().upload_begun);
}

TEST_CASE("a change in memory reaches the file with the next successful write", "[session]") {
  const test::CheckedOut place;
  StateFile state(place.account.host, place.parcel);
  state.change_in_memory([](SessionState& next) { next.upload_begun = true; });
  CHECK(state.now().upload_begun);
  CHECK_FALSE(place.written().upload_begun);
  {
    const test::UnwritableState unwritable(place);
    state.try_to_save();
    CHECK_THROWS(state.change([](SessionState& next) { next.vm.network = NetworkMode::kUser; }));
  }
  CHECK(state.now().upload_begun);
  SECTION("with a later change()") {
    state.change([](SessionState& next) { next.vm.network = NetworkMode::kUser; });
  }
  SECTION("with write_if_behind()") {
    state.write_if_behind();
    fs::remove(place.state_file());
    state.write_if_behind();
    CHECK_FALSE(fs::exists(place.state_file()));  // there was no change left to write
    state.save();
  }
  CHECK(place.written().upload_begun);
}
