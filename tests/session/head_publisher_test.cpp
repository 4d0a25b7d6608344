#include "session/head_publisher.h"

#include <catch2/catch.hpp>

#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/session_parts.h"

using namespace isr;

namespace {

constexpr std::size_t kMostPending = 64;

struct Place : test::CheckedOut {
  StateFile state{account.host, parcel};
  SessionLock lock{account, parcel, state};
  HeadPublisher heads{account, parcel, state, lock};

  /// The base version with another message, so that its head differs.
  ParcelVersion version(const std::string& message) const {
    ParcelVersion version = state.now().base_version;
    version.message = message;
    return version;
  }
};

/// Calls `before` with each head that is put, and loses its answer while `loses` is set.
class HeadStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  std::function<void(ByteView blob)> before;
  bool loses = false;
  bool swallows = false;  ///< loses the head, too

  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    if (name.find("/heads/") == std::string_view::npos) return FaultStore::put_new(name, bytes, stop);
    if (before) before(bytes);
    if (swallows) throw Error(ErrorKind::kTransient, "no answer");
    const PutResult result = FaultStore::put_new(name, bytes, stop);
    if (loses) throw Error(ErrorKind::kTransient, "no answer");
    return result;
  }
};

}  // namespace

TEST_CASE("put() names a head in the state file before it puts the head", "[session]") {
  Place place;
  const auto store = std::make_shared<HeadStore>(place.account.remote.store);
  place.account.remote.store = store;
  int heads = 0;
  store->before = [&](ByteView blob) {
    const SessionState written = place.written();
    REQUIRE(written.pending.size() == 1);
    CHECK(written.pending[0].n == 2);
    CHECK((written.pending[0].hash == head_hash(blob)));
    CHECK((written.pending[0].void_below == HeadPublisher::VoidBelow{{0, 17}}));
    ++heads;
  };
  const PutHead put = place.heads.put(place.version("two"), {{0, 17}}, {});
  CHECK(heads > 0);
  CHECK(put.version == 2);
  REQUIRE(put.head.has_value());
  CHECK((put.head->hash == place.state.now().pending.at(0).hash));
  CHECK(place.state.now().base == 1);  // the caller of put() makes it the base
}

TEST_CASE("put() puts no head when the state file cannot be written", "[session]") {
  Place place;
  const test::UnwritableState unwritable(place);
  CHECK_THROWS(place.heads.put(place.version("two"), {}, {}));
  CHECK(load_version(place.account, place.parcel).head.head.n == 1);
}

TEST_CASE("a head becomes the base when its answer was lost, and the next head follows it", "[session]") {
  Place place;
  const auto store = std::make_shared<HeadStore>(place.account.remote.store);
  place.account.remote.store = store;
  store->loses = true;
  CHECK((test::kind_thrown([&] { place.heads.put(place.version("two"), {{0, 17}}, {}); }) == ErrorKind::kTransient));
  store->loses = false;
  bool is_found = true;
  SECTION("found at the open") { place.heads.resolve_at_open(); }
  SECTION("found before a publish") { CHECK_FALSE(place.heads.resolve({}).has_value()); }
  SECTION("found when the next head is put") { is_found = false; }
  if (is_found) {
    CHECK(place.state.now().base == 2);
    CHECK(place.state.now().base_version.message == "two");
    CHECK(place.state.now().find("disk")->void_below == 17);
    CHECK(place.written().pending.empty());
  }
  const PutHead put = place.heads.put(place.version("three"), {}, {});
  CHECK(put.version == 3);
  CHECK(put.fork.empty());
}

TEST_CASE("resolve_at_open() asks the repository nothing when no answer was lost, or offline", "[session]") {
  Place place;
  const auto store = std::make_shared<test::FaultStore>(place.account.remote.store);
  place.account.remote.store = store;
  SECTION("no answer was lost") {}
  SECTION("offline") {
    place.state.change([](SessionState& next) { next.pending.push_back({2, next.base_hash, {}}); });
    place.account.remote.store = nullptr;
  }
  place.heads.resolve_at_open();
  CHECK(store->calls() == 0);
  CHECK(place.state.now().base == 1);
}

TEST_CASE("put() forgets the oldest head without an answer when there are too many", "[session]") {
  Place place;
  const auto store = std::make_shared<HeadStore>(place.account.remote.store);
  place.account.remote.store = store;
  store->swallows = true;
  Sha256 second;
  for (std::size_t i = 0; i < kMostPending + 1; ++i) {
    CHECK_THROWS(place.heads.put(place.version(std::to_string(i)), {}, {}));
    if (i == 1) second = place.state.now().pending.back().hash;
  }
  CHECK(place.state.now().pending.size() == kMostPending);
  CHECK((place.state.now().pending.front().hash == second));
}

TEST_CASE("put() keeps a head as a fork and leaves the base when another host was first", "[session]") {
  Place place;
  const LoadedVersion first = load_version(place.account, place.parcel);
  REQUIRE(place.account.chain(place.parcel.chain())
              .publish(2, make_head(place.account, place.parcel, {2, first.head.hash}, place.version("theirs"))));
  const PutHead put = place.heads.put(place.version("ours"), {}, {});
  CHECK_FALSE(put.head.has_value());
  CHECK_FALSE(put.is_lock_lost);
  CHECK(put.version == 1);
  CHECK(load_version(place.account, place.parcel, {{}, put.fork}).version.message == "ours");
  CHECK(place.state.now().pending.empty());
}
