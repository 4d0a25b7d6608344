#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "account/version_reader.h"
#include "session/session.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/silent_store.h"
#include "support/suspended_session.h"
#include "transfer/new_version.h"

using namespace isr;
using Place = test::CheckedOut;

namespace {

/// Puts another host's head just before the caller's head of the same name.
class FirstAtHead : public test::FaultStore {
 public:
  FirstAtHead(BlobStorePtr inner, std::string name, Bytes blob)
      : FaultStore(std::move(inner)), name_(std::move(name)), blob_(std::move(blob)) {}
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    if (name == name_) FaultStore::put_new(name, blob_, stop);
    return FaultStore::put_new(name, bytes, stop);
  }

 private:
  std::string name_;
  Bytes blob_;
};

/// Publishes version 2 of another host.
void publish_theirs(const Place& place) {
  const LoadedVersion first = load_version(place.account, place.parcel);
  ParcelVersion theirs = first.version;
  theirs.message = "theirs";
  REQUIRE(place.account.chain(place.parcel.chain())
              .publish(2, make_head(place.account, place.parcel, {2, first.head.hash}, theirs)));
}

}  // namespace

TEST_CASE("a publish that becomes a fork ends on stop when the repository does not answer", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(kChunkSize, 2));
  publish_theirs(place);
  const BlobStorePtr store = place.account.remote.store;
  const auto silent = std::make_shared<test::SilentStore>(store, "/forks/");
  place.account.remote.store = silent;
  std::stop_source source;
  const std::jthread stopper([&](const std::stop_token& ending) {
    while (!silent->is_asked() && !ending.stop_requested()) std::this_thread::yield();
    source.request_stop();
  });
  PublishOptions options;
  options.stop = source.get_token();
  CHECK((test::kind_thrown([&] { session.publisher().publish(options, {}); }) == ErrorKind::kCancelled));
  CHECK_FALSE(silent->has_timed_out());
  place.account.remote.store = store;
  CHECK_FALSE(session.publisher().publish({}, {}).fork.empty());
}

TEST_CASE(
    "a publish waits until junk under the next number is accepted, and keeps the work when it then loses the race",
    "[session]") {
  Place place;
  const std::string chain = place.parcel.chain();
  Session session(place.account, place.parcel);
  const Bytes ours = test::random_bytes(kChunkSize, 2);
  session.images().image("disk")->write(0, ours);
  place.account.remote.store->put_new(head_name(chain, 2), as_bytes("junk"));
  CHECK(test::kind_thrown([&] { session.publisher().publish({}, {}); }) == ErrorKind::kHistory);
  CHECK((test::disk_of(session) == ours));
  const StoredHead first = place.account.chain(chain).accept_older(1, "junk");
  SECTION("the work becomes the version behind the junk") {
    CHECK(session.publisher().publish({}, {}).version == 3);
    CHECK(session.state().base == 3);
    CHECK_FALSE(session.images().is_dirty());
    session.images().image("disk")->write(0, test::random_bytes(kChunkSize, 3));
    CHECK(session.publisher().publish({}, {}).version == 4);
  }
  SECTION("the work becomes a fork when another host takes the number behind the junk") {
    ParcelVersion theirs = session.state().base_version;
    theirs.message = "theirs";
    const Bytes blob = make_head(place.account, place.parcel, {3, first.hash, first.junk}, theirs);
    const BlobStorePtr store = place.account.remote.store;
    place.account.remote.store = std::make_shared<FirstAtHead>(store, head_name(chain, 3), blob);
    const PublishResult result = session.publisher().publish({}, {});
    CHECK(result.fork.ends_with("/3"));
    session.end();
    CHECK(load_version(place.account, place.parcel).version.message == "theirs");
    const LoadedVersion fork = load_version(place.account, place.parcel, {{}, result.fork});
    Bytes found(kChunkSize);
    VersionReader(place.account, Unreachable::kFail).open(*fork.version.find("disk"))->read(0, found);
    CHECK((found == ours));
    CHECK(roll_back(place.account, place.parcel, fork.choice(), {}) == 4);
  }
}

TEST_CASE("a session can end only once the fork that keeps its work can be read", "[session]") {
  /// Accepts every object, but returns none while `hides` is set.
  class HidingStore : public test::FaultStore {
   public:
    using FaultStore::FaultStore;
    std::atomic<bool> hides = false;
    std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
      if (hides && name.starts_with("objects/")) return std::nullopt;
      return FaultStore::get(name, range, stop);
    }
  };
  Place place;
  const auto store = std::make_shared<HidingStore>(place.account.remote.store);
  place.account.remote.store = store;
  Session session(place.account, place.parcel);
  const Bytes ours = test::random_bytes(kChunkSize, 2);
  session.images().image("disk")->write(0, ours);
  publish_theirs(place);
  store->hides = true;
  CHECK(test::kind_thrown([&] { session.publisher().publish({}, {}); }) == ErrorKind::kCorrupt);
  CHECK(test::kind_thrown([&] { session.end(); }) == ErrorKind::kVm);
  store->hides = false;
  const PublishResult result = session.publisher().publish({}, {});
  REQUIRE_FALSE(result.fork.empty());
  session.end();
  CHECK(load_version(place.account, place.parcel).version.message == "theirs");

  VersionReader reader(place.account, Unreachable::kFail);
  const LoadedVersion fork = load_version(place.account, place.parcel, {{}, result.fork});
  CHECK(fork.label() == result.fork);
  Bytes found(kChunkSize);
  SECTION("the fork opens as a version") { reader.open(*fork.version.find("disk"))->read(0, found); }
  SECTION("the fork opens as a parcel of its own") {
    const ParcelEntry lab = branch_parcel(place.account, place.parcel, fork, "lab");
    const LoadedVersion branch = load_version(place.account, lab);
    CHECK(branch.version.copy_of == "work@" + result.fork);
    CHECK_FALSE(place.account.lock(lab).show()->record.held);
    reader.open(*branch.version.find("disk"))->read(0, found);
  }
  SECTION("the fork opens as the newest version") {
    CHECK(roll_back(place.account, place.parcel, fork.choice(), {}) == 3);
    reader.open(*load_version(place.account, place.parcel).version.find("disk"))->read(0, found);
  }
  CHECK((found == ours));
}
