#include "session/lease_keeper.h"

#include <catch2/catch.hpp>
#include <thread>

#include "support/comes_true.h"
#include "support/memory_store.h"
#include "support/silent_store.h"

using namespace isr;
using namespace std::chrono_literals;

namespace {

const LockIdentity kDesk{"desk-42", "000102030405060708090a0b0c0d0e0f"};
const LockIdentity kLaptop{"laptop", "f00102030405060708090a0b0c0d0e0f"};

struct Setup {
  ParcelLock lock_of(const LockIdentity& who) const {
    return {store, "parcels/4f", signing_key_from_seed({.value = {1, 2, 3}}), who};
  }
  LockRecord held() const {
    LockRecord record = lock_of(kDesk).acquire({.hold = random_hold(), .mode = LockMode::kAttended, .base = {}});
    record.lease = 1s;  // renewals have the same lease
    return record;
  }
  std::uint64_t newest() const { return lock_of(kDesk).show()->record.r; }
  BlobStorePtr store = std::make_shared<test::MemoryStore>();
};

}  // namespace

TEST_CASE("a keeper renews the lease until it is stopped", "[session]") {
  const Setup s;
  LeaseKeeper keeper(
      s.held(), [&](const std::stop_token&) { return s.lock_of(kDesk); }, [](const Error&) { FAIL("lost"); });
  keeper.start();
  CHECK(test::comes_true([&] { return s.newest() >= 2; }));
  keeper.stop();
  const std::uint64_t last = s.newest();
  std::this_thread::sleep_for(500ms);
  CHECK(s.newest() == last);
}

TEST_CASE("a keeper tries again before the lease ends when the repository cannot be reached", "[session]") {
  const Setup s;
  std::atomic<int> asked = 0;
  LeaseKeeper keeper(
      s.held(),
      [&](const std::stop_token&) -> ParcelLock {
        if (++asked < 10) throw Error(ErrorKind::kOffline, "no route");
        return s.lock_of(kDesk);
      },
      [](const Error&) { FAIL("lost"); });
  const auto began = std::chrono::steady_clock::now();
  keeper.start();
  CHECK(test::comes_true([&] { return s.newest() >= 1; }));
  CHECK(asked >= 10);
  CHECK(std::chrono::steady_clock::now() - began < 5s);  // ten attempts take about 0.6 s
}

TEST_CASE("stop() aborts a renewal when the repository does not answer", "[session]") {
  Setup s;
  const LockRecord held = s.held();
  const auto silent = std::make_shared<test::SilentStore>(s.store, "/locks/");
  s.store = silent;
  LeaseKeeper keeper(
      held,
      [&](const std::stop_token& stop) {
        return ParcelLock(make_stoppable(s.store, stop), "parcels/4f", signing_key_from_seed({.value = {1, 2, 3}}),
                          kDesk);
      },
      [](const Error&) { FAIL("lost"); });
  keeper.start();
  REQUIRE(test::comes_true([&] { return silent->is_asked(); }));
  keeper.stop();
  CHECK_FALSE(silent->has_timed_out());
}

TEST_CASE("a keeper calls on_lost once when the lock is taken over", "[session]") {
  const Setup s;
  std::atomic<int> told = 0;
  LeaseKeeper keeper(
      s.held(), [&](const std::stop_token&) { return s.lock_of(kDesk); },
      [&](const Error& how) {
        CHECK(how.kind() == ErrorKind::kLocked);
        ++told;
      });
  keeper.start();
  s.lock_of(kLaptop).steal({.hold = random_hold(), .mode = LockMode::kAttended, .base = {}}, "needed");
  CHECK(test::comes_true([&] { return told > 0; }));
  std::this_thread::sleep_for(500ms);
  CHECK(told == 1);
  CHECK(s.lock_of(kLaptop).show()->ours);
}

TEST_CASE("a keeper renews the lease at once when the host has slept", "[session]") {
  const Setup s;
  LockRecord held = s.held();
  held.lease = 600s;
  std::atomic<bool> looked = false;
  std::atomic<bool> slept = false;
  LeaseKeeper keeper(
      held, [&](const std::stop_token&) { return s.lock_of(kDesk); }, [](const Error&) { FAIL("lost"); },
      [&] {
        looked = true;
        return slept ? boot_time() + 1h : boot_time();
      });
  keeper.start();
  REQUIRE(test::comes_true([&] { return looked.load(); }));
  slept = true;
  CHECK(test::comes_true([&] { return s.newest() >= 1; }));
}
