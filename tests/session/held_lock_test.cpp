#include "session/held_lock.h"

#include <atomic>
#include <catch2/catch.hpp>

#include "base/file_lock.h"
#include "session/checkout.h"
#include "session/session.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/parcel_place.h"
#include "support/silent_store.h"
#include "transfer/new_version.h"

using namespace isr;

namespace {

struct Place : test::ParcelPlace {
  void check_out() { isr::check_out(account, parcel, LockMode::kCheckout, {}, {}); }
  ParcelLock lock() const { return account.lock(parcel); }
  ParcelLock laptop() const {
    return {account.remote.store, parcel.chain(), account.identity.signing, {"laptop", std::string(32, 'f')}};
  }
  LockRequest wanting(char hold) const {
    return {.hold = std::string(32, hold), .mode = LockMode::kAttended, .base = {}};
  }
  bool is_free() const { return !lock().show()->record.held; }
  /// Takes the lock as a command does that is killed afterwards. Returns the hold.
  std::string take() const {
    const FileLock flock = take_parcel(account.host, parcel);
    return take_lock(account, parcel, LockMode::kCheckout, {}, {}).hold;
  }
  bool has_directory() const { return fs::exists(account.host.parcel_directory(parcel)); }
};

/// While the lock is held, requests a stop at the first read of an object whose name contains `part`, as an interrupt
/// by the user does. Later calls see the stop as calls of a real store do.
class InterruptedStore : public test::FaultStore {
 public:
  InterruptedStore(BlobStorePtr inner, std::string part, bool is_locked)
      : FaultStore(std::move(inner)), part_(std::move(part)), is_locked_(is_locked) {}
  std::stop_source interrupt;

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    if (is_locked_ && name.find(part_) != std::string_view::npos) interrupt.request_stop();
    if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "cancelled");
    return FaultStore::get(name, range, stop);
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    is_locked_ = true;
    return FaultStore::put_new(name, bytes, stop);
  }

 private:
  std::string part_;
  bool is_locked_;
};

}  // namespace

namespace {

/// Runs a command on a store that answers no call for a name with `silent_part`, and interrupts the command in such a
/// call. Checks that the command ends at once and leaves no lock.
void interrupt_on_a_silent_line(const Place& place, const std::string& silent_part,
                                const std::function<void(Account&, const std::stop_token&)>& command) {
  Account account = place.account;
  const auto silent = std::make_shared<test::SilentStore>(account.remote.store, silent_part);
  account.remote.store = silent;
  std::stop_source interrupt;
  const std::jthread user([&] {
    while (!silent->is_asked()) std::this_thread::yield();
    interrupt.request_stop();
  });
  CHECK((test::kind_thrown([&] { command(account, interrupt.get_token()); }) == ErrorKind::kCancelled));
  CHECK_FALSE(silent->has_timed_out());
  give_back_left_locks(place.account);
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
  CHECK_FALSE(place.lock().show().has_value());
}

}  // namespace

TEST_CASE("an interrupted checkout ends and leaves no lock when the repository does not answer", "[session]") {
  Place place;
  interrupt_on_a_silent_line(place, GENERATE("heads/", "locks/"), [&](Account& account, const std::stop_token& stop) {
    check_out(account, place.parcel, LockMode::kCheckout, {}, {}, stop);
  });
  place.check_out();
}

TEST_CASE("an interrupted rollback ends and leaves no lock when the repository does not answer", "[session]") {
  Place place;
  interrupt_on_a_silent_line(place, GENERATE("/heads/", "/locks/"), [&](Account& account, const std::stop_token& stop) {
    roll_back(account, place.parcel, {1}, {}, stop);
  });
  CHECK(roll_back(place.account, place.parcel, {1}, {}) == 2);
}

TEST_CASE("an interrupted branch ends and leaves no lock when the repository does not answer", "[session]") {
  Place place;
  const LoadedVersion from = load_version(place.account, place.parcel);
  interrupt_on_a_silent_line(
      place, GENERATE("/heads/", "/locks/", "/profile/"),
      [&](Account& account, const std::stop_token& stop) { branch_parcel(account, place.parcel, from, "lab", stop); });
}

TEST_CASE("a checkout gives its lock back when it is interrupted after taking it", "[session]") {
  Place place;
  Account account = place.account;
  const auto store = std::make_shared<InterruptedStore>(account.remote.store, "heads/", false);
  account.remote.store = store;
  CHECK((test::kind_thrown([&] {
           check_out(account, place.parcel, LockMode::kCheckout, {}, {}, store->interrupt.get_token());
         }) == ErrorKind::kCancelled));
  CHECK(place.is_free());
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
}

TEST_CASE("a lock is given back when the command is interrupted while it gives the lock back", "[session]") {
  const Place place;
  const std::string hold = place.take();
  Account account = place.account;
  const auto store = std::make_shared<InterruptedStore>(account.remote.store, "locks/", true);
  account.remote.store = store;
  CHECK(give_back_lock(account, place.parcel.id, hold, store->interrupt.get_token()) == LockReturn::kDone);
  CHECK(store->interrupt.stop_requested());
  CHECK(place.is_free());
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
}

TEST_CASE("giving back a lock ends and keeps its note when it is interrupted and the repository does not answer",
          "[session]") {
  const Place place;
  const std::string hold = place.take();
  Account account = place.account;
  const auto silent = std::make_shared<test::SilentStore>(account.remote.store, "/locks/");
  account.remote.store = silent;
  std::stop_source interrupt;
  const std::jthread user([&] {
    while (!silent->is_asked()) std::this_thread::yield();
    interrupt.request_stop();
  });
  CHECK(give_back_lock(account, place.parcel.id, hold, interrupt.get_token()) == LockReturn::kLater);
  CHECK_FALSE(silent->has_timed_out());
  CHECK(has_lock_to_give_back(place.account.host, place.parcel));
}

TEST_CASE("the next command gives back the lock of a killed command", "[session]") {
  const Place place;
  const std::string hold = place.take();
  CHECK(place.lock().show()->is_hold(hold));
  CHECK(has_lock_to_give_back(place.account.host, place.parcel));
  SECTION("not while that command runs") {
    const FileLock flock = take_parcel(place.account.host, place.parcel);
    give_back_left_locks(place.account);
    CHECK(place.lock().show()->is_hold(hold));
  }
  SECTION("not offline") {
    Account offline = place.account;
    offline.remote.store = nullptr;
    give_back_left_locks(offline);
    CHECK((give_back_lock(offline, place.parcel.id, hold) == LockReturn::kLater));
    CHECK(has_lock_to_give_back(place.account.host, place.parcel));
  }
  give_back_left_locks(place.account);
  CHECK(place.is_free());
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
  CHECK_FALSE(place.has_directory());
}

TEST_CASE("giving back left locks only removes the note when the hold does not have the lock", "[session]") {
  const Place place;
  note_lock(place.account.host, place.parcel.id, random_hold());
  const bool taken = GENERATE(true, false);
  if (taken) place.laptop().acquire(place.wanting('2'));
  give_back_left_locks(place.account);
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
  CHECK(place.lock().show().has_value() == taken);
  if (taken) CHECK(place.laptop().show()->ours);
}

TEST_CASE("a session keeps its lock when the note of its hold still exists", "[session]") {
  Place place;
  place.check_out();
  const std::string hold = place.lock().show()->record.hold;
  note_lock(place.account.host, place.parcel.id, hold);
  give_back_left_locks(place.account);
  CHECK(place.lock().show()->is_hold(hold));
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
}

TEST_CASE("the lock of a session is given back later when the session ends without a network", "[session]") {
  Place place;
  place.check_out();
  const auto line = std::make_shared<test::FaultStore>(place.account.remote.store);
  {
    Session session(place.account, place.parcel);
    CHECK(session.publisher().publish({}, {}).unchanged);
    place.account.remote.store = line;
    line->script(std::vector<test::Fault>(20, test::Fault::kBefore));
    CHECK((session.end() == LockReturn::kLater));
  }
  CHECK_FALSE(place.has_directory());
  CHECK(has_lock_to_give_back(place.account.host, place.parcel));
  line->script({});
  give_back_left_locks(place.account);
  CHECK(place.is_free());
}

TEST_CASE("an orphaned lock of this host is given back on request", "[session]") {
  Place place;
  SECTION("without a session") {
    forget_lock(place.account.host, place.parcel.id, place.take());
    CHECK(give_back_orphaned_lock(place.account, place.parcel));
    CHECK(place.is_free());
  }
  SECTION("but not the lock of a session") {
    place.check_out();
    CHECK_FALSE(give_back_orphaned_lock(place.account, place.parcel));
    CHECK_FALSE(place.is_free());
  }
  SECTION("but not the lock of another host") {
    place.laptop().acquire(place.wanting('2'));
    CHECK_FALSE(give_back_orphaned_lock(place.account, place.parcel));
    CHECK(place.laptop().show()->ours);
  }
}

TEST_CASE("a rollback fails and takes no lock when the parcel is in use on this host", "[session]") {
  Place place;
  const auto refused = [&] { return test::kind_thrown([&] { roll_back(place.account, place.parcel, {1}, {}); }); };
  SECTION("by a command") {
    const FileLock flock = take_parcel(place.account.host, place.parcel);
    CHECK((refused() == ErrorKind::kVm));
    CHECK_FALSE(place.lock().show().has_value());
  }
  SECTION("by a session") {
    place.check_out();
    CHECK((refused() == ErrorKind::kVm));
    CHECK(place.lock().show()->record.s == 1);
  }
  SECTION("but succeeds when the parcel is free") {
    CHECK(roll_back(place.account, place.parcel, {1}, {}) == 2);
    CHECK(place.is_free());
    CHECK_FALSE(place.has_directory());
    CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
  }
}

TEST_CASE("a publish takes the lock again when it is free, and makes a fork when another host has it", "[session]") {
  Place place;
  place.check_out();
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(700, 7));
  SECTION("the lock was broken") {
    place.lock().break_lock("by mistake");
    const PublishResult result = session.publisher().publish({}, {});
    CHECK(result.fork.empty());
    CHECK(result.version == 2);
    CHECK(place.lock().show()->ours);
    CHECK((session.end() == LockReturn::kDone));
    CHECK(place.is_free());
  }
  SECTION("another host took the lock and gave it back without a version") {
    place.laptop().steal(place.wanting('2'), "needed");
    place.laptop().release(place.wanting('2').hold);
    CHECK(session.publisher().publish({}, {}).version == 2);
  }
  SECTION("another host has the lock") {
    place.laptop().steal(place.wanting('2'), "needed");
    CHECK_FALSE(session.publisher().publish({}, {}).fork.empty());
    CHECK(place.laptop().show()->ours);
  }
  SECTION("another hold of this host has the lock; its process has ended, because this session has the lock file") {
    const std::string hold = place.lock().show()->record.hold;
    place.lock().steal(place.wanting('2'), "by a command that was killed");
    CHECK_FALSE(place.lock().show()->is_hold(hold));
    CHECK(session.publisher().publish({}, {}).version == 2);
    CHECK(place.lock().show()->is_hold(hold));
  }
}

TEST_CASE("secure() makes sure that the session has the lock before a guest runs", "[session]") {
  Place place;
  place.check_out();
  Session session(place.account, place.parcel);
  const auto outcome = [&] { return test::kind_thrown([&] { session.lock().secure({}, {}); }); };
  session.lock().secure({}, {});
  CHECK(place.lock().show()->record.s == 1);
  SECTION("takes a broken lock again") {
    place.lock().break_lock("by mistake");
    session.lock().secure({}, {});
    CHECK(place.lock().show()->ours);
  }
  SECTION("refuses a lock of another host, and takes it only on request") {
    place.laptop().steal(place.wanting('2'), "needed");
    CHECK((outcome() == ErrorKind::kLocked));
    CHECK(place.laptop().show()->ours);
    session.lock().secure("--take-lock", {});
    CHECK(place.lock().show()->ours);
  }
  SECTION("refuses a free lock when another host has published") {
    place.laptop().steal(place.wanting('2'), "needed");
    const StoredHead before = load_version(place.account, place.parcel).head;
    const ParcelVersion version = load_version(place.account, place.parcel).version;
    place.account.chain(place.parcel.chain())
        .publish(2, make_head(place.account, place.parcel, {2, before.hash}, version));
    place.laptop().release(place.wanting('2').hold);
    CHECK((outcome() == ErrorKind::kHistory));
    session.lock().secure("--take-lock", {});
    CHECK(place.lock().show()->ours);
  }
  SECTION("lets the guest run when the repository does not answer") {
    place.account.remote.store = std::make_shared<test::FaultStore>(place.account.remote.store,
                                                                    std::vector<test::Fault>(20, test::Fault::kBefore));
    session.lock().secure({}, {});
  }
}

TEST_CASE("a host id differs for another state directory, machine or key", "[session]") {
  const Key secret{.value = {1}};
  const std::string here = host_id_of(secret, "machine", "/home/alice/.local/state/isr");
  CHECK(here.size() == 32);
  CHECK(host_id_of(secret, "machine", "/home/alice/.local/state/isr") == here);
  CHECK(host_id_of(secret, "machine", "/mnt/home/alice/.local/state/isr") != here);
  CHECK(host_id_of(secret, "another", "/home/alice/.local/state/isr") != here);
  CHECK(host_id_of({.value = {2}}, "machine", "/home/alice/.local/state/isr") != here);
}

TEST_CASE("a session in a moved state directory publishes only once the user has taken its lock", "[session]") {
  Place place;
  place.check_out();
  const std::string hold = place.lock().show()->record.hold;
  Account moved = place.account;
  moved.host.holder.host_id = std::string(32, 'e');
  Session session(moved, place.parcel);
  const auto is_refused = [&] {
    return test::kind_thrown([&] { session.publisher().publish({}, {}); }) == ErrorKind::kLocked;
  };
  session.images().image("disk")->write(0, test::random_bytes(700, 7));
  CHECK(is_refused());
  CHECK((test::kind_thrown([&] { session.lock().secure({}, {}); }) == ErrorKind::kLocked));
  CHECK(place.lock().show()->is_hold(hold));
  SECTION("the directory was moved") {
    session.lock().secure("--take-lock", {});
    CHECK_FALSE(place.lock().show()->is_moved_hold(hold));
    CHECK(session.publisher().publish({}, {}).version == 2);
    CHECK((session.end() == LockReturn::kDone));
    CHECK(place.is_free());
    CHECK_FALSE(has_lock_to_give_back(moved.host, place.parcel));
  }
  SECTION("the directory was copied, and the original publishes first") {
    const StoredHead before = load_version(place.account, place.parcel).head;
    const ParcelVersion version = load_version(place.account, place.parcel).version;
    place.account.chain(place.parcel.chain())
        .publish(2, make_head(place.account, place.parcel, {2, before.hash}, version));
    CHECK_FALSE(session.publisher().publish({}, {}).fork.empty());
    CHECK(place.lock().show()->is_hold(hold));
  }
}

TEST_CASE("a session publishes a fork when a copy of it has taken the lock", "[session]") {
  Place place;
  place.check_out();
  const std::string hold = place.lock().show()->record.hold;
  ParcelLock copy(place.account.remote.store, place.parcel.chain(), place.account.identity.signing,
                  {"vm", std::string(32, 'e')});
  CHECK_FALSE(copy.release(hold));
  CHECK(place.lock().show()->is_hold(hold));
  copy.steal(place.wanting('5'), "--take-lock");
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(700, 7));
  const PublishResult kept = session.publisher().publish({}, {});
  CHECK(kept.is_lock_lost);
  CHECK_FALSE(kept.fork.empty());
}

TEST_CASE("a lock keeps its note when it was taken before the state directory was moved", "[session]") {
  const Place place;
  place.take();
  Account moved = place.account;
  moved.host.holder.host_id = std::string(32, 'e');
  give_back_left_locks(moved);
  CHECK(has_lock_to_give_back(moved.host, place.parcel));
  CHECK_FALSE(place.is_free());
  place.lock().break_lock("moved");
  give_back_left_locks(moved);
  CHECK_FALSE(has_lock_to_give_back(moved.host, place.parcel));
}

TEST_CASE("checkout and end of a session succeed when directories of an ended session remain", "[session]") {
  Place place;
  const fs::path directory = place.account.host.parcel_directory(place.parcel);
  const fs::path left = directory.string() + ".ended.0123";
  fs::create_directories(left / "journal");
  place.check_out();
  CHECK_FALSE(fs::exists(left));
  fs::create_directories(left / "journal");
  {
    Session session(place.account, place.parcel);
    CHECK(session.publisher().publish({}, {}).unchanged);
    CHECK((session.end() == LockReturn::kDone));
  }
  CHECK_FALSE(fs::exists(directory));
  place.check_out();
  CHECK(fs::exists(directory / "session"));
}

TEST_CASE("take_parcel() succeeds when the parcel's directory is removed again and again", "[session]") {
  Place place;
  const fs::path directory = place.account.host.parcel_directory(place.parcel);
  std::atomic<int> went{0};
  std::jthread ends([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::error_code gone;
      fs::rename(directory, directory.string() + ".away", gone);
      if (!gone) ++went;
      fs::remove_all(directory.string() + ".away", gone);
      // take_parcel() needs some time, because making the directory waits for the disk.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  while (went < 30) CHECK_NOTHROW(take_parcel(place.account.host, place.parcel));
}
