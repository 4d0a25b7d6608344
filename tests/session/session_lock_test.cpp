#include "session/session_lock.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "support/comes_true.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/session_parts.h"
#include "transfer/new_version.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

constexpr std::chrono::seconds kShortestLease{3};  // renewed each second

struct Place : test::CheckedOut {
  StateFile state{account.host, parcel};
  SessionLock lock{account, parcel, state};

  explicit Place(std::chrono::seconds lease = 600s) { set_lease(lease); }
  void set_lease(std::chrono::seconds lease) {
    account.host.config.override_with_flag("lock.lease", std::to_string(lease.count()));
  }
  std::uint64_t newest_record() const { return in_repository().show()->record.r; }
  /// Waits for the next renewal of the session's hold.
  bool is_renewed() const {
    const std::uint64_t last = newest_record();
    return test::comes_true([&] { return newest_record() > last; }) &&
           in_repository().show()->is_hold(state.now().hold);
  }

  ParcelLock in_repository() const { return account.lock(parcel); }
  ParcelLock laptop() const {
    return {account.remote.store, parcel.chain(), account.identity.signing, {"laptop", std::string(32, 'f')}};
  }
  LockRequest wanting(char hold) const { return {.hold = std::string(32, hold), .mode = {}, .base = {}}; }
  /// Returns the message and the hints with which secure() refuses.
  std::vector<std::string> refusal(ErrorKind kind) {
    std::vector<std::string> lines;
    try {
      lock.secure({}, {});
    } catch (const Error& error) {
      CHECK(error.kind() == kind);
      lines = error.hints();
      lines.insert(lines.begin(), error.what());
    }
    return lines;
  }
  /// Publishes version 2, a copy of version 1. Returns its hash.
  Sha256 publish_copy() const {
    const LoadedVersion first = load_version(account, parcel);
    const Bytes blob = make_head(account, parcel, {2, first.head.hash}, first.version);
    return account.chain(parcel.chain()).publish(2, blob)->hash;
  }
};

}  // namespace

TEST_CASE("secure() names the command that takes the lock when another host has taken it", "[session]") {
  Place place;
  std::string command = "isr checkout work --take-lock";
  SECTION("for a session without memory") {}
  SECTION("for a suspended machine") {
    place.state.change([](SessionState& next) { next.phase = SessionPhase::kSuspended; });
    command = "isr resume work --take-lock";
  }
  place.laptop().steal(place.wanting('2'), "needed");
  const auto lines = place.refusal(ErrorKind::kLocked);
  REQUIRE(lines.size() == 4);
  CHECK_THAT(lines[0], Catch::StartsWith("laptop has taken over work (since "));
  CHECK_THAT(lines[1], Catch::EndsWith(command));
  CHECK_THAT(lines[2], Catch::Contains("once laptop has suspended it"));
  CHECK(place.laptop().show()->is_hold(std::string(32, '2')));
  CHECK_FALSE(place.lock.keep({}));
}

TEST_CASE("secure() names both versions when another host has published", "[session]") {
  Place place;
  place.publish_copy();
  place.in_repository().break_lock("by mistake");
  const auto lines = place.refusal(ErrorKind::kHistory);
  REQUIRE(lines.size() == 4);
  CHECK_THAT(lines[0], Catch::Contains("version 2") && Catch::Contains("comes from version 1"));
  CHECK_FALSE(place.in_repository().show()->record.held);
}

TEST_CASE("secure() accepts a newer version when it may be the session's own publish without an answer", "[session]") {
  Place place;
  const Sha256 hash = place.publish_copy();
  place.state.change([&](SessionState& next) { next.pending.push_back({2, hash, {}}); });
  place.in_repository().break_lock("by mistake");
  CHECK(place.lock.secure({}, {}));
  CHECK(place.in_repository().show()->is_hold(place.state.now().hold));
}

TEST_CASE("secure() takes a lock over under a new hold, and removes the note only once the state file names the hold",
          "[session]") {
  Place place;
  const std::string before = place.state.now().hold;
  place.laptop().steal(place.wanting('2'), "needed");
  SECTION("the state file can be written") {
    CHECK(place.lock.secure("wanted", {}));
    CHECK(place.state.now().hold != before);
    CHECK(place.written().hold == place.state.now().hold);
    CHECK(place.in_repository().show()->is_hold(place.state.now().hold));
    CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
  }
  SECTION("the note stays when the state file cannot be written") {
    const test::UnwritableState unwritable(place);
    CHECK_THROWS(place.lock.secure("wanted", {}));
    CHECK(place.state.now().hold == before);
    CHECK(has_lock_to_give_back(place.account.host, place.parcel));
  }
}

TEST_CASE("keep_lease() renews the lease until end_lease()", "[session]") {
  Place place(kShortestLease);
  place.lock.keep_lease([](const Error&) {});
  CHECK(place.is_renewed());
  place.lock.end_lease();
  const std::uint64_t last = place.newest_record();
  std::this_thread::sleep_for(1200ms);  // without end_lease(), the next renewal would come after 1 s
  CHECK(place.newest_record() == last);
}

TEST_CASE("secure() renews the new lease at once when it takes a lock over", "[session]") {
  Place place(600s);
  place.lock.keep_lease([](const Error&) {});  // this lease would be renewed only after 200 s
  place.laptop().steal(place.wanting('2'), "needed");
  place.set_lease(kShortestLease);
  CHECK(place.lock.secure("wanted", {}));
  CHECK(place.is_renewed());
}

TEST_CASE("a lost lease is reported once, and renewed again when the session has the lock again", "[session]") {
  Place place(kShortestLease);
  std::atomic<int> told = 0;
  place.lock.keep_lease([&](const Error& how) {
    if (how.kind() == ErrorKind::kLocked) ++told;
  });
  place.laptop().steal(place.wanting('2'), "needed");
  CHECK(test::comes_true([&] { return told > 0; }));
  CHECK_FALSE(place.lock.keep({}));
  CHECK(place.laptop().release(std::string(32, '2')));
  CHECK(place.lock.keep({}));
  CHECK(place.is_renewed());
  CHECK(told == 1);
}

TEST_CASE("keep() takes the lock again under the same hold when it is free", "[session]") {
  Place place;
  const std::string hold = place.state.now().hold;
  place.in_repository().break_lock("by mistake");
  CHECK(place.lock.keep({}));
  CHECK(place.in_repository().show()->is_hold(hold));
  CHECK(place.state.now().hold == hold);
}

TEST_CASE("give_back() frees the lock and removes its note, or keeps both when the repository cannot be reached",
          "[session]") {
  Place place;
  place.lock.note();
  CHECK(place.in_repository().show()->record.held);
  const BlobStorePtr store = place.account.remote.store;
  place.account.remote.store = std::make_shared<test::FaultStore>(store, std::vector(20, test::Fault::kBefore));
  CHECK((place.lock.give_back() == LockReturn::kLater));
  CHECK(has_lock_to_give_back(place.account.host, place.parcel));
  place.account.remote.store = store;
  CHECK((place.lock.give_back() == LockReturn::kDone));
  CHECK_FALSE(place.in_repository().show()->record.held);
  CHECK_FALSE(has_lock_to_give_back(place.account.host, place.parcel));
}
