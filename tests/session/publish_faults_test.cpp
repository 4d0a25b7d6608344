#include <catch2/catch.hpp>
#include <thread>

#include "account/version_reader.h"
#include "session/session.h"
#include "support/error_kind.h"
#include "support/hooked_publish.h"
#include "support/lying_store.h"
#include "support/silent_store.h"
#include "support/suspended_session.h"

using namespace isr;
using Place = test::CheckedOut;

TEST_CASE("a publish adopts the head that it compared when the store answers differently afterwards", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const Sha256 first = load_version(place.account, place.parcel).head.hash;
  const Bytes other = make_head(place.account, place.parcel, {2, first}, session.state().base_version);
  const auto store = std::make_shared<test::LyingStore>(place.account.remote.store);
  place.account.remote.store = std::make_shared<test::HookedPublish>(store, [&] {
    const std::string name = head_name(place.parcel.chain(), 2);
    store->lie(name, {store->get(name)->bytes, other});
  });
  session.images().image("disk")->write(0, test::random_bytes(kChunkSize, 7));
  CHECK(session.publisher().publish({}, {}).version == 2);
  CHECK((session.state().base_hash == place.account.host.trust->seen(place.parcel.chain())->hash));
}

TEST_CASE("a publish counts and drops nothing when the state file cannot be written after it", "[session]") {
  Place place;
  const Bytes disk = test::random_bytes(kChunkSize, 7);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, disk);
  {
    std::optional<test::UnwritableState> unwritable;
    const BlobStorePtr store = place.account.remote.store;
    place.account.remote.store = std::make_shared<test::HookedPublish>(store, [&] { unwritable.emplace(place); });
    CHECK_THROWS(session->publisher().publish({}, {}));
    place.account.remote.store = store;
  }
  CHECK(session->state().base == 1);
  CHECK((test::disk_of(*session) == disk));
  SECTION("the next open finds it") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == 2);
    CHECK_FALSE(session->images().is_dirty());
  }
  SECTION("the next publish finds it") {
    session->images().image("disk")->write(100, Bytes(16, 0x5a));
    const PublishResult result = session->publisher().publish({}, {});
    CHECK(result.fork.empty());
    CHECK(result.version == 3);
    CHECK((ByteView(test::disk_of(*session)).subspan(100, 16)[15] == 0x5a));
    return;
  }
  CHECK((test::disk_of(*session) == disk));
}

TEST_CASE("a publish ends on stop when the repository does not answer", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(4 * kChunkSize, 7));
  const Bytes expected = test::disk_of(session);
  test::suspend(session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
  const BlobStorePtr store = place.account.remote.store;
  std::string silent_about;
  bool of_boot_pack = false;
  SECTION("for an object") { silent_about = "objects/"; }
  SECTION("for an object of a boot pack") {
    silent_about = "objects/";
    of_boot_pack = true;
  }
  SECTION("for the lock") { silent_about = "/locks/"; }
  SECTION("for the head") { silent_about = "/heads/0000000000000002"; }
  CAPTURE(silent_about);
  const auto silent = std::make_shared<test::SilentStore>(store, silent_about);
  std::stop_source source;
  std::jthread stopper([&](const std::stop_token& ending) {
    while (!silent->is_asked() && !ending.stop_requested()) std::this_thread::yield();
    source.request_stop();
  });
  PublishOptions options;
  options.memory = true;
  options.stop = source.get_token();
  if (of_boot_pack) {
    options.boot_order = [&] {
      place.account.remote.store = silent;
      return BootOrder{.pages = {{0, 0}}, .chunks = {}};
    };
  } else {
    place.account.remote.store = silent;
  }
  CHECK((test::kind_thrown([&] { session.publisher().publish(options, {}); }) == ErrorKind::kCancelled));
  CHECK_FALSE(silent->has_timed_out());
  place.account.remote.store = store;
  options.stop = {};
  options.boot_order = {};
  const PublishResult result = session.publisher().publish(options, {});
  CHECK(result.version == 2);
  CHECK(result.fork.empty());
  CHECK((test::disk_of(session) == expected));
}
