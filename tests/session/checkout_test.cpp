#include "session/checkout.h"

#include <catch2/catch.hpp>

#include "base/file_lock.h"
#include "base/whole_file.h"
#include "session/held_lock.h"
#include "session/session.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/session_parts.h"

using namespace isr;

namespace {

struct Place : test::CheckedOut {
  fs::path session_directory() const { return state_file().parent_path(); }
  void undo() { undo_check_out(account, parcel); }
  bool is_locked() const {
    const auto ruling = account.lock(parcel).show();
    return ruling && ruling->record.held;
  }
  bool is_untouched() const { return fs::exists(state_file()) && is_locked(); }
};

}  // namespace

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

TEST_CASE("undo_check_out() removes the session's directory and gives its lock back", "[session]") {
  Place place;
  SECTION("when nothing was started on it") {}
  SECTION("when a session was opened and wrote nothing") { const Session session(place.account, place.parcel); }
  place.undo();
  CHECK_FALSE(fs::exists(place.session_directory()));
  CHECK(fs::is_empty(place.session_directory().parent_path()));  // no renamed directory is left beside it
  CHECK_FALSE(place.is_locked());
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
  check_out(place.account, place.parcel, LockMode::kAttended, {}, {});
  CHECK(place.is_untouched());
}

TEST_CASE("undo_check_out() does nothing when the parcel is not checked out", "[session]") {
  Place place;
  place.undo();
  CHECK_NOTHROW(place.undo());
  CHECK_FALSE(fs::exists(place.session_directory()));  // undo_check_out() does not make the directory
}

TEST_CASE("undo_check_out() keeps a session in whose journal something was written", "[session]") {
  Place place;
  const Bytes written = test::random_bytes(kChunkSize, 7);
  {
    const Session session(place.account, place.parcel);
    session.images().image("disk")->write(0, written);
  }
  place.undo();
  CHECK(place.is_untouched());
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
  const Session session(place.account, place.parcel);
  CHECK((test::read_image(*session.images().image("disk"), kChunkSize) == written));
}

TEST_CASE("undo_check_out() keeps a session that another process has", "[session]") {
  Place place;
  const Session session(place.account, place.parcel);
  place.undo();
  CHECK(place.is_untouched());
}

TEST_CASE("undo_check_out() keeps a session whose state file is damaged", "[session]") {
  Place place;
  replace_file(place.state_file(), as_bytes("junk"));
  CHECK((test::kind_thrown([&] { place.undo(); }) == ErrorKind::kCorrupt));
  CHECK(place.is_untouched());
}

TEST_CASE("undo_check_out() can be repeated when the first try could not note the lock", "[session]") {
  Place place;
  const fs::path notes = place.account.host.state_directory / "locks";
  fs::remove_all(notes);
  replace_file(notes, as_bytes("no directory can be made here"));
  CHECK_THROWS_AS(place.undo(), Error);
  CHECK(place.is_untouched());
  fs::remove(notes);
  place.undo();
  CHECK_FALSE(fs::exists(place.session_directory()));
  CHECK_FALSE(place.is_locked());
}

TEST_CASE("undo_check_out() can be repeated when the first try was killed after it noted the lock", "[session]") {
  Place place;
  note_lock(place.account.host, place.parcel.id, place.written().hold);
  SECTION("by undo_check_out() itself") { place.undo(); }
  SECTION("after the next command found the note, which the session makes obsolete") {
    give_back_left_locks(place.account);
    CHECK(place.is_untouched());
    place.undo();
  }
  SECTION("by the next command alone when the directory was already away") {
    take_directory_away(place.session_directory());
    CHECK_NOTHROW(place.undo());
    CHECK(place.is_locked());
    give_back_left_locks(place.account);
  }
  CHECK_FALSE(fs::exists(place.session_directory()));
  CHECK_FALSE(place.is_locked());
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
}

TEST_CASE("undo_check_out() leaves the lock to the next command when the repository does not answer", "[session]") {
  Place place;
  const BlobStorePtr store = std::exchange(
      place.account.remote.store,
      std::make_shared<test::FaultStore>(place.account.remote.store, std::vector(99, test::Fault::kBefore)));
  place.undo();
  CHECK_FALSE(fs::exists(place.session_directory()));
  place.account.remote.store = store;
  CHECK(place.is_locked());
  CHECK(has_lock_to_give_back(place.account.host, place.parcel));
  give_back_left_locks(place.account);
  CHECK_FALSE(place.is_locked());
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
}
