#include "session/memory_check.h"

#include <atomic>
#include <catch2/catch.hpp>

#include "account/version_reader.h"
#include "support/fault_store.h"
#include "support/suspended_session.h"

using namespace isr;
using Place = test::CheckedOut;

namespace {

/// A guest that was suspended and published with `memory`, and was resumed.
struct Resumed : Place {
  Bytes memory = test::random_bytes(6 * kChunkSize, 2);
  Session session{account, parcel};
  MachineMoment moment{test::some_stamp(), test::random_bytes(5000, 3), {}};

  Resumed() {
    test::suspend(session, memory, moment.device_state, true);
    PublishOptions options;
    options.memory = true;
    session.publisher().publish(options, {});
    session.memory().begin(false);
    session.memory().begin_run(false);
    const auto change = test::random_bytes(kPageSize, 4);  // becomes a page of QEMU's own
    own(kChunkSize, change);
  }
  ~Resumed() { session.memory().abandon(); }

  void own(std::uint64_t offset, ByteView bytes) {
    moment.memory.own.push_back({offset, offset + bytes.size()});
    std::copy(bytes.begin(), bytes.end(), memory.begin() + static_cast<std::ptrdiff_t>(offset));
    session.memory().live()->copy(offset, bytes);
  }
  void sample(std::uint64_t offset) {
    moment.memory.sample.push_back({offset, Bytes(memory.begin() + static_cast<std::ptrdiff_t>(offset),
                                                  memory.begin() + static_cast<std::ptrdiff_t>(offset + kPageSize))});
  }
  void sync() {
    PublishOptions options;
    options.checkpoint = [this](const std::function<void()>& freeze) {
      freeze();
      return moment;
    };
    session.publisher().publish(options, {});
  }
  /// Syncs or suspends. Returns the text of the refusal; "" when the memory was accepted.
  std::string refusal(bool suspends) {
    try {
      suspends ? session.memory().keep(moment) : sync();
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kBug);
      return error.what();
    }
    return "";
  }
  std::uint64_t newest() { return load_version(account, parcel).head.head.n; }
};

}  // namespace

TEST_CASE("suspend and sync fail, name the page and leave the guest running when memory differs from QEMU's",
          "[session]") {
  Resumed guest;
  const bool suspends = GENERATE(true, false);
  CAPTURE(suspends);
  const std::uint64_t version = guest.newest();
  for (const std::uint64_t page : {0, 7, 32, 40, 100}) guest.sample(page * kPageSize);
  guest.moment.memory.seed = 4711;
  bool is_sampled = false;
  std::string where;
  SECTION("in one of QEMU's own pages") {
    guest.moment.memory.sample[2].bytes[17] ^= 1;
    is_sampled = true;
    where = "0x20000";
  }
  SECTION("in a page that comes from the layer below") {
    guest.moment.memory.sample[4].bytes[4095] ^= 1;
    is_sampled = true;
    where = "0x64000";
  }
  SECTION("in a page that was zeroed although the guest did not give it back") {
    guest.session.memory().live()->copy(5 * kChunkSize + kPageSize, Bytes(kPageSize));
    where = "0xa0000";
  }
  SECTION("in a chunk with a copied page that is not QEMU's own") {
    guest.session.memory().live()->copy(3 * kChunkSize, test::random_bytes(kPageSize, 5));
    where = "0x60000";
  }
  const std::string refusal = guest.refusal(suspends);
  CHECK_THAT(refusal, Catch::Contains(where));
  if (is_sampled) CHECK_THAT(refusal, Catch::Contains("(sample 4711)"));
  CHECK(guest.session.state().phase == SessionPhase::kRunning);
  CHECK(guest.newest() == version);
  CHECK_THAT(guest.refusal(suspends), Catch::Contains(where));  // refused again the second time
}

TEST_CASE("suspend and sync accept memory that the guest has changed, given back or left alone", "[session]") {
  Resumed guest;
  const bool suspends = GENERATE(true, false);
  CAPTURE(suspends);
  guest.session.memory().live()->zero(4 * kChunkSize, kPageSize);
  std::fill_n(guest.memory.begin() + 4 * kChunkSize, kPageSize, std::uint8_t{0});
  for (const std::uint64_t page : {0, 7, 32, 40, 100, 128}) guest.sample(page * kPageSize);
  CHECK(guest.refusal(suspends).empty());
  if (suspends) {
    CHECK((test::memory_of(guest.session, guest.memory.size()) == guest.memory));
    return;
  }
  // A failed sync and a successful one leave the checks as they were: no page counts as given back.
  guest.moment.memory.sample[0].bytes[0] ^= 1;
  CHECK_FALSE(guest.refusal(false).empty());
  guest.moment.memory.sample[0].bytes[0] ^= 1;
  guest.own(2 * kChunkSize, test::random_bytes(kPageSize, 9));
  guest.sample(2 * kChunkSize);
  CHECK(guest.refusal(true).empty());
  CHECK((test::memory_of(guest.session, guest.memory.size()) == guest.memory));
}

namespace {

class CountingStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  std::atomic<int> fetched_objects = 0;
  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    if (name.starts_with("objects/")) ++fetched_objects;
    return FaultStore::get(name, range, stop);
  }
};

/// Returns how many objects a suspend or sync fetches when no memory of the guest is on this host.
int objects_fetched(bool suspends, bool samples) {
  Place place;
  const Bytes memory = test::random_bytes(6 * kChunkSize, 2);
  {
    Session session(place.account, place.parcel);
    test::suspend(session, memory, test::random_bytes(5000, 3), true);
    PublishOptions options;
    options.memory = true;
    session.publisher().publish(options, {});
  }
  fs::remove_all(place.account.host.paths.cache);
  const auto store = std::make_shared<CountingStore>(place.account.remote.store);
  place.account.remote.store = store;
  Session session(place.account, place.parcel);
  session.memory().begin(false);
  session.memory().begin_run(false);
  MachineMoment moment{test::some_stamp(), test::random_bytes(5000, 4), {}};
  for (std::uint64_t at = 0; samples && at < memory.size(); at += kChunkSize) {
    const ByteView page = ByteView(memory).subspan(at, kPageSize);
    moment.memory.sample.push_back({at, to_bytes(page)});
  }
  const int before = store->fetched_objects;
  PublishOptions options;
  options.checkpoint = [&](const std::function<void()>& freeze) {
    freeze();
    return moment;
  };
  suspends ? session.memory().keep(moment) : void(session.publisher().publish(options, {}));
  session.memory().abandon();
  return store->fetched_objects - before;
}

}  // namespace

TEST_CASE("suspend and sync fetch no objects to compare memory that is not on this host", "[session]") {
  CHECK(objects_fetched(true, true) == 0);
  CHECK(objects_fetched(false, true) == objects_fetched(false, false));
}

TEST_CASE("a resumed machine can be synced when its memory was kept without the rest of a chunk", "[session]") {
  Place place;
  Bytes memory = test::random_bytes(6 * kChunkSize, 2);
  const Bytes device = test::random_bytes(5000, 3);
  {
    Session session(place.account, place.parcel);
    test::suspend(session, memory, device, true);
    PublishOptions options;
    options.memory = true;
    session.publisher().publish(options, {});
  }
  fs::remove_all(place.account.host.paths.cache);  // now all objects must be fetched from the repository
  {
    Session session(place.account, place.parcel);
    session.memory().begin(false);
    session.memory().begin_run(false);
    const Bytes change = test::random_bytes(kPageSize, 4);
    session.memory().live()->copy(kChunkSize, change);
    std::ranges::copy(change, memory.begin() + kChunkSize);
    session.memory().keep({test::some_stamp(), device, {{{kChunkSize, kChunkSize + kPageSize}}, {}}});
    session.memory().abandon();
  }
  Session session(place.account, place.parcel);
  session.memory().begin(false);
  session.memory().begin_run(false);
  PublishOptions options;
  options.checkpoint = [&](const std::function<void()>& freeze) {
    freeze();
    return MachineMoment{test::some_stamp(), device, {}};
  };
  CHECK_NOTHROW(session.publisher().publish(options, {}));
  CHECK((test::memory_of(session, memory.size()) == memory));
  session.memory().abandon();
}
