#include <catch2/catch.hpp>

#include "account/version_reader.h"
#include "session/session.h"
#include "support/error_kind.h"
#include "support/full_store.h"
#include "support/hooked_publish.h"
#include "support/suspended_session.h"
#include "transfer/new_version.h"

using namespace isr;
using Place = test::CheckedOut;

namespace {

void fail_publish(Place& place, Session& session, const BlobStorePtr& line, bool memory) {
  const BlobStorePtr store = std::exchange(place.account.remote.store, line);
  PublishOptions options;
  options.memory = memory;
  CHECK((test::kind_thrown([&] { session.publisher().publish(options, {}); }) == ErrorKind::kTransient));
  place.account.remote.store = store;
}

/// Publishes a version, and loses the answer.
void lose_publish(Place& place, Session& session, bool memory = true) {
  const auto lose = [] { throw Error(ErrorKind::kTransient, "no answer"); };
  fail_publish(place, session, std::make_shared<test::HookedPublish>(place.account.remote.store, lose), memory);
}

/// Delays the first head: it arrives just before the next one.
class LateStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    if (name.find("/heads/") == std::string_view::npos) return FaultStore::put_new(name, bytes, stop);
    if (!late_) {
      late_.emplace(std::string(name), to_bytes(bytes));
      throw Error(ErrorKind::kTransient, "no answer");
    }
    FaultStore::put_new(late_->first, late_->second, stop);
    return FaultStore::put_new(name, bytes, stop);
  }

 private:
  std::optional<std::pair<std::string, Bytes>> late_;
};

/// Keeps back all heads; deliver() lets one arrive.
class WithheldHeads : public test::FaultStore {
 public:
  explicit WithheldHeads(BlobStorePtr inner) : FaultStore(inner), inner_(std::move(inner)) {}
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    if (name.find("/heads/") == std::string_view::npos) return FaultStore::put_new(name, bytes, stop);
    withheld_.emplace_back(std::string(name), to_bytes(bytes));
    throw Error(ErrorKind::kTransient, "no answer");
  }
  void deliver(std::size_t which) { inner_->put_new(withheld_.at(which).first, withheld_.at(which).second); }

 private:
  BlobStorePtr inner_;
  std::vector<std::pair<std::string, Bytes>> withheld_;
};

/// Another host publishes a copy of the newest version.
void publish_as_another(Place& place) {
  const LoadedVersion newest = load_version(place.account, place.parcel);
  const std::uint64_t n = newest.head.head.n + 1;
  REQUIRE(place.account.chain(place.parcel.chain())
              .publish(n, make_head(place.account, place.parcel, {n, newest.head.hash}, newest.version)));
}

}  // namespace

TEST_CASE("a publish finds whichever earlier publish happened when several had no answer", "[session]") {
  Place place;
  const std::size_t arrives = GENERATE(0U, 1U, 2U);
  CAPTURE(arrives);
  Session session(place.account, place.parcel);
  const auto withheld = std::make_shared<WithheldHeads>(place.account.remote.store);
  for (std::uint64_t round = 0; round < 3; ++round) {
    session.images().image("disk")->write(100 * round, test::random_bytes(700, round + 11));
    fail_publish(place, session, withheld, false);
  }
  const Bytes expected = test::disk_of(session);
  withheld->deliver(arrives);
  const PublishResult result = session.publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.unchanged == (arrives == 2));
  CHECK(result.version == (arrives == 2 ? 2 : 3));
  CHECK((test::disk_of(session) == expected));
}

TEST_CASE("a publish without an answer is found when another host has published after it", "[session]") {
  Place place;
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, test::random_bytes(700, 11));
  lose_publish(place, *session, false);
  publish_as_another(place);
  bool changed = false;
  SECTION("nothing has changed since") {}
  SECTION("nothing has changed since, and another daemon opens the session") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
  }
  SECTION("more has changed") {
    session->images().image("disk")->write(5000, test::random_bytes(700, 12));
    changed = true;
  }
  const PublishResult result = session->publisher().publish({}, {});
  CHECK(result.unchanged == !changed);
  CHECK(result.fork.empty() == !changed);
  CHECK_FALSE(result.is_lock_lost);
}

TEST_CASE("a session with an unanswered publish opens when the history is refused, and publishes once it is accepted",
          "[session]") {
  Place place;
  const Bytes ours = test::random_bytes(kChunkSize, 11);
  {
    Session session(place.account, place.parcel);
    session.images().image("disk")->write(0, ours);
    lose_publish(place, session, false);
  }
  const std::string first = head_name(place.parcel.chain(), 1);
  const std::string second = head_name(place.parcel.chain(), 2);
  const bool arrived = GENERATE(true, false);
  if (!arrived) place.account.remote.store->remove(second);
  const Bytes seen = place.account.remote.store->get(first)->bytes;
  place.account.remote.store->remove(first);  // this host has seen it, so the history is refused

  Session session(place.account, place.parcel);
  Bytes found(kChunkSize);
  session.images().image("disk")->read(0, found);
  CHECK((found == ours));
  CHECK(session.state().pending.size() == 1);
  CHECK((test::kind_thrown([&] { session.publisher().publish({}, {}); }) == ErrorKind::kHistory));
  session.images().image("disk")->read(0, found);
  CHECK((found == ours));

  place.account.remote.store->put_new(first, seen);
  const PublishResult result = session.publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.version == 2);
  CHECK(session.state().pending.empty());
}

TEST_CASE(
    "a publish is refused with the ways out when versions behind an unanswered publish are lost, and can be given up",
    "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(700, 11));
  lose_publish(place, session, false);
  publish_as_another(place);
  publish_as_another(place);
  const std::string chain = place.parcel.chain();
  for (const std::uint64_t n : {2, 3}) place.account.remote.store->remove(head_name(chain, n));
  std::vector<std::string> hints;
  try {
    session.publisher().publish({}, {});
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kHistory);
    hints = error.hints();
  }
  REQUIRE(hints.size() == 2);
  CHECK_THAT(hints[1], Catch::Contains("isr discard work, then isr checkin work"));
  session.discard();
  CHECK(session.publisher().publish({}, {}).unchanged);
  session.end();
}

TEST_CASE("a session accepts a publish without an answer only when it can make the head durable", "[session]") {
  Place place;
  const Bytes ours = test::random_bytes(kChunkSize, 11);
  {
    Session session(place.account, place.parcel);
    session.images().image("disk")->write(0, ours);
    lose_publish(place, session, false);
  }
  const BlobStorePtr store =
      std::exchange(place.account.remote.store, std::make_shared<test::FullStore>(place.account.remote.store));
  Session session(place.account, place.parcel);
  CHECK(session.state().pending.size() == 1);
  CHECK(session.state().base == 1);
  place.account.remote.store = store;
  CHECK(session.publisher().publish({}, {}).version == 2);
  CHECK(session.state().pending.empty());
}

TEST_CASE("a session keeps a write that follows an unanswered publish without disk changes", "[session]") {
  Place place;
  auto session = std::make_unique<Session>(place.account, place.parcel);
  const auto reopen = [&] {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
  };
  session->images().image("disk")->write(0, test::random_bytes(700, 7));
  REQUIRE(session->publisher().publish({}, {}).version == 2);
  session->keep_network(session->state().vm.network == NetworkMode::kNone ? NetworkMode::kUser : NetworkMode::kNone);
  lose_publish(place, *session, false);
  const BlobStorePtr store = std::exchange(place.account.remote.store, nullptr);
  reopen();
  reopen();  // now the journal has no record left, so no record keeps its sequence numbers
  const Bytes written = test::random_bytes(700, 8);
  session->images().image("disk")->write(0, written);
  session->images().image("disk")->flush();
  place.account.remote.store = store;
  reopen();
  CHECK(session->state().base == 3);
  CHECK((test::read_image(*session->images().image("disk"), written.size()) == written));
}

TEST_CASE("a publish makes no fork when the two publishes before it had no answer", "[session]") {
  Place place;
  const bool second_arrives = GENERATE(true, false);
  CAPTURE(second_arrives);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  const auto disk = [&] { return session->images().image("disk"); };
  Bytes expected = test::disk_of(*session);
  const auto write = [&](std::size_t at, std::uint64_t seed) {
    const Bytes bytes = test::random_bytes(700, seed);
    disk()->write(at, bytes);
    std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(at));
  };
  write(0, 7);
  lose_publish(place, *session, false);
  write(500, 8);
  if (second_arrives) {
    lose_publish(place, *session, false);
  } else {
    fail_publish(place, *session, std::make_shared<LateStore>(place.account.remote.store), false);
  }
  CHECK((test::disk_of(*session) == expected));
  const std::uint64_t happened = second_arrives ? 3 : 2;
  std::uint64_t version = happened + 1;
  SECTION("with a third change") { write(9000, 9); }
  SECTION("with nothing new, after another daemon has opened the session") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == happened);
    CHECK(session->images().is_dirty() != second_arrives);
    if (second_arrives) version = happened;
  }
  SECTION("with a third change, after another daemon has opened the session") {
    write(9000, 9);
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == happened);
  }
  CHECK((test::disk_of(*session) == expected));
  const PublishResult result = session->publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.version == version);
  CHECK((test::disk_of(*session) == expected));
  session.reset();
  session = std::make_unique<Session>(place.account, place.parcel);
  CHECK((test::disk_of(*session) == expected));
  session->discard();
  CHECK((test::disk_of(*session) == expected));
}

TEST_CASE("a publish makes no fork when the head of the publish before it arrives late", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const auto late = std::make_shared<LateStore>(place.account.remote.store);
  session.images().image("disk")->write(0, test::random_bytes(700, 7));
  fail_publish(place, session, late, false);
  session.images().image("disk")->write(500, test::random_bytes(700, 8));
  const Bytes expected = test::disk_of(session);
  place.account.remote.store = late;
  const PublishResult result = session.publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.version == 3);
  session.discard();
  CHECK((test::disk_of(session) == expected));
}

TEST_CASE("finding that a publish happened keeps memory and device state that were written since", "[session]") {
  Place place;
  const Bytes disk = test::random_bytes(kChunkSize, 7);
  const Bytes memory = test::random_bytes(3 * kChunkSize, 2);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, disk);
  test::suspend(*session, memory, test::random_bytes(kChunkSize + 5000, 3), true);
  lose_publish(place, *session);
  const auto reopen = [&] {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == 2);
  };
  SECTION("nothing was written since") {
    reopen();
    CHECK_FALSE(session->images().is_dirty());
    CHECK((test::memory_of(*session, memory.size()) == memory));
    CHECK(session->memory().device_state().size() == kChunkSize + 5000);
  }
  SECTION("device state of a machine that was resumed") {
    const Bytes device = test::random_bytes(3000, 4);
    test::suspend(*session, test::random_bytes(kChunkSize, 5), device, false);
    reopen();
    CHECK((session->memory().device_state() == device));
    Bytes expected = memory;
    std::ranges::copy(test::random_bytes(kChunkSize, 5), expected.begin());
    CHECK((test::memory_of(*session, memory.size()) == expected));
  }
  SECTION("memory of a machine that was started afresh") {
    Bytes expected = test::random_bytes(kChunkSize, 5);
    test::suspend(*session, expected, test::random_bytes(3000, 4), true);
    reopen();
    expected.resize(memory.size());
    CHECK((test::memory_of(*session, memory.size()) == expected));
  }
  CHECK((test::disk_of(*session) == disk));
}

TEST_CASE("a publish after a discard makes no fork when the unanswered publish before it happened", "[session]") {
  Place place;
  auto session = std::make_unique<Session>(place.account, place.parcel);
  const Bytes before = test::disk_of(*session);
  session->images().image("disk")->write(0, test::random_bytes(kChunkSize, 7));
  test::suspend(*session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
  lose_publish(place, *session);
  session->discard();
  Bytes wanted = before;
  SECTION("nothing was written after the discard") {}
  SECTION("the disk was written after the discard") {
    wanted = test::random_bytes(kChunkSize, 9);
    session->images().image("disk")->write(0, wanted);
  }
  SECTION("another daemon opens the session") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
  }
  CHECK((test::disk_of(*session) == wanted));
  const PublishResult result = session->publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.version == 3);
  CHECK_FALSE(result.unchanged);
  CHECK((test::disk_of(*session) == wanted));
  CHECK_FALSE(load_version(place.account, place.parcel).version.suspended());
}
