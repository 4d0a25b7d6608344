#include "session/session.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <set>
#include <thread>

#include "support/comes_true.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/suspended_session.h"

using namespace isr;
using Place = test::CheckedOut;

TEST_CASE("a publish fails and stays offline when another repository is at the address", "[session]") {
  Place place;
  const BlobStorePtr store = place.account.remote.store;
  place.account.remote.store = nullptr;  // the session is opened offline
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(kChunkSize, 7));
  const fs::path root = place.entry.url;
  fs::rename(root, place.directory.path() / "true");
  prepare_store_location(place.entry.url);
  init_repository(*open_store(place.entry.url));
  CHECK((test::kind_thrown([&] { session.publisher().publish({}, {}); }) == ErrorKind::kHistory));
  CHECK(place.account.remote.offline());
  fs::remove_all(root);
  fs::rename(place.directory.path() / "true", root);
  CHECK(session.publisher().publish({}, {}).version == 2);
}

TEST_CASE("a session does not renew its lease when another repository is at the address", "[session]") {
  Place place;
  place.account.host.config.override_with_flag("lock.lease", "3");
  place.account.remote.store = nullptr;  // the session is opened offline
  Session session(place.account, place.parcel);
  const fs::path root = place.entry.url;
  const fs::path kept = place.directory.path() / "true";
  fs::rename(root, kept);
  const bool is_another = GENERATE(true, false);
  if (is_another) {
    prepare_store_location(place.entry.url);
    init_repository(*open_store(place.entry.url));
    fs::copy(kept / "parcels", root / "parcels", fs::copy_options::recursive);  // including the lock
  } else {
    fs::rename(kept, root);
  }
  const auto locks = [&] {
    std::set<fs::path> found;
    for (const auto& file : fs::recursive_directory_iterator(root)) {
      const std::string path = file.path().string();
      if (path.find("/locks/") != std::string::npos || path.find("/renewals/") != std::string::npos) found.insert(path);
    }
    return found;
  };
  const auto before = locks();
  session.lock().keep_lease([](const Error&) {});
  const auto end = std::chrono::steady_clock::now() + (is_another ? std::chrono::seconds(3) : std::chrono::minutes(2));
  while (locks() == before && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  CHECK((locks() == before) == is_another);
}

TEST_CASE("~Session waits for a running on_lost before it destroys the images", "[session]") {
  Place place;
  place.account.host.config.override_with_flag("lock.lease", "3");
  auto session = std::make_unique<Session>(place.account, place.parcel);
  const std::weak_ptr<Image> disk = session->images().image("disk");
  std::atomic<bool> is_told = false;
  std::atomic<bool> is_whole = true;
  session->lock().keep_lease([&](const Error&) {
    is_told = true;  // the test now destroys the session, which must wait for this call
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    while (is_whole && std::chrono::steady_clock::now() < end) {
      if (disk.expired()) is_whole = false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  ParcelLock laptop(place.account.remote.store, place.parcel.chain(), place.account.identity.signing,
                    {"laptop", std::string(32, 'f')});
  laptop.steal({.hold = random_hold(), .mode = LockMode::kAttended, .base = {}}, "needed");
  REQUIRE(test::comes_true([&] { return is_told.load(); }));
  session.reset();
  CHECK(disk.expired());
  CHECK(is_whole);
}

TEST_CASE("secure() with a reason fails when the repository does not answer", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  place.account.remote.store =
      std::make_shared<test::FaultStore>(place.account.remote.store, std::vector(99, test::Fault::kBefore));
  CHECK_FALSE(session.lock().secure({}, {}));
  CHECK((test::kind_thrown([&] { session.lock().secure("wanted", {}); }) == ErrorKind::kTransient));
}

TEST_CASE("a session ends only when everything in it was published", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const auto ends = [&] {
    const auto failure = test::kind_thrown([&] { session.end(); });
    CHECK(fs::exists(place.state_file()) == failure.has_value());
    CHECK((!failure || failure == ErrorKind::kVm));
    return !failure;
  };
  const auto disk = session.images().image("disk");
  disk->write(0, test::random_bytes(kChunkSize, 7));
  CHECK_FALSE(ends());
  session.publisher().publish({}, {});
  SECTION("after a publish") { CHECK(ends()); }
  SECTION("not after a later write") {
    disk->write(kChunkSize, test::random_bytes(512, 8));
    CHECK_FALSE(ends());
    session.publisher().publish({}, {});
    CHECK(ends());
  }
  SECTION("not after a later discard") {
    disk->discard(kChunkSize, kChunkSize);
    CHECK_FALSE(ends());
    session.publisher().publish({}, {});
    CHECK(ends());
  }
  SECTION("not after a later suspend, until memory is published") {
    test::suspend(session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
    CHECK_FALSE(ends());
    session.publisher().publish({}, {});
    CHECK_FALSE(ends());
    PublishOptions with_memory;
    with_memory.memory = true;
    session.publisher().publish(with_memory, {});
    CHECK(ends());
  }
  SECTION("after a publish that found no changes") {
    disk->write(0, test::random_bytes(kChunkSize, 7));
    CHECK(session.publisher().publish({}, {}).unchanged);
    CHECK(ends());
  }
}
