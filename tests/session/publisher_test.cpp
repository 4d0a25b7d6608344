#include "session/publisher.h"

#include <atomic>
#include <catch2/catch.hpp>

#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/session_parts.h"

using namespace isr;

namespace {

struct Place : test::CheckedOut {
  test::SessionParts parts{*this};
  Bytes contents = test::random_bytes(kChunkSize, 7);

  void write() { parts.images.image("disk")->write(0, contents); }
  bool is_published() {
    return !test::kind_thrown([&] { parts.publisher.require_published(); }).has_value();
  }
};

/// Records the kinds of names that it is asked for, in order and once each: "objects", "locks", "heads". Loses the
/// answers to heads while `loses_head`, and refuses objects while `is_full`.
class NotingStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  std::atomic<bool> loses_head{false}, is_full{false};
  std::function<void()> on_head;

  std::vector<std::string> steps() const { return *steps_.lock(); }

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    if (name.find("/locks/") != std::string_view::npos) note("locks");
    return FaultStore::get(name, range, stop);
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    if (name.starts_with("objects/")) {
      if (is_full) throw Error(ErrorKind::kIo, "the store is full");
      note("objects");
    }
    const bool is_head = name.find("/heads/") != std::string_view::npos;
    if (is_head) note("heads");
    const PutResult result = FaultStore::put_new(name, bytes, stop);
    if (is_head && on_head) on_head();
    if (is_head && loses_head) throw Error(ErrorKind::kTransient, "no answer");
    return result;
  }

 private:
  void note(const std::string& step) {
    auto steps = steps_.lock();
    if (std::find(steps->begin(), steps->end(), step) == steps->end()) steps->push_back(step);
  }
  Sync<std::vector<std::string>> steps_;
};

}  // namespace

TEST_CASE("a publish sends the objects, reads the lock and puts the head, in this order", "[session]") {
  Place place;
  const auto store = std::make_shared<NotingStore>(place.account.remote.store);
  place.account.remote.store = store;
  place.write();
  CHECK_FALSE(place.is_published());
  const PublishResult result = place.parts.publisher.publish({}, {});
  CHECK(result.version == 2);
  CHECK(store->steps() == std::vector<std::string>{"objects", "locks", "heads"});
  CHECK(result.uploaded_objects > 0);
  CHECK(place.parts.publisher.uploaded_bytes() == result.uploaded_bytes);
  CHECK(place.is_published());
  CHECK_FALSE(place.parts.images.is_dirty());
}

TEST_CASE("a publish keeps the changes in the session until the head is in the repository", "[session]") {
  Place place;
  const auto store = std::make_shared<NotingStore>(place.account.remote.store);
  place.account.remote.store = store;
  place.write();
  bool was_dirty = false;
  bool was_settled = false;
  store->on_head = [&] {
    was_dirty = place.parts.images.is_dirty();
    was_settled = !place.parts.objects.settled().all().empty();
  };
  place.parts.publisher.publish({}, {});
  CHECK(was_dirty);
  CHECK(was_settled);
  CHECK(place.parts.objects.settled().all().empty());
}

TEST_CASE("a publish fails when its answer is lost, and the next finds it without sending again", "[session]") {
  Place place;
  const auto store = std::make_shared<NotingStore>(place.account.remote.store);
  place.account.remote.store = store;
  place.write();
  place.parts.images.image("disk")->write(3 * kChunkSize + 5, as_bytes("a little, which goes into a patch"));
  store->loses_head = true;
  CHECK((test::kind_thrown([&] { place.parts.publisher.publish({}, {}); }) == ErrorKind::kTransient));
  CHECK_FALSE(place.is_published());
  CHECK(place.parts.images.is_dirty());
  CHECK(place.parts.state.now().base == 1);
  CHECK((test::read_image(*place.parts.images.image("disk"), kChunkSize) == place.contents));
  store->loses_head = false;
  for (int twice = 0; twice < 2; ++twice) {
    place.parts.objects.sweep().sweep(place.parts.objects.settled(), place.parts.images.needed_objects());
  }
  const PublishResult result = place.parts.publisher.publish({}, {});
  CHECK(result.unchanged);
  CHECK(result.version == 2);
  CHECK(result.uploaded_objects == 0);
  CHECK(place.is_published());
  CHECK_FALSE(place.parts.images.is_dirty());
  CHECK(place.written().base == 2);
}

TEST_CASE("a publish keeps the changes when an upload fails, and the next publishes them", "[session]") {
  Place place;
  const auto store = std::make_shared<NotingStore>(place.account.remote.store);
  place.account.remote.store = store;
  place.write();
  store->is_full = true;
  CHECK((test::kind_thrown([&] { place.parts.publisher.publish({}, {}); }) == ErrorKind::kIo));
  CHECK(place.written().upload_begun);
  CHECK(place.written().pending.empty());
  CHECK_FALSE(place.is_published());
  store->is_full = false;
  CHECK(place.parts.publisher.publish({}, {}).version == 2);
  CHECK_FALSE(place.written().upload_begun);
  CHECK((test::read_image(*place.parts.images.image("disk"), kChunkSize) == place.contents));
}

TEST_CASE("a checkpoint leaves the machine running with nothing frozen when it fails", "[session]") {
  Place place;
  const Bytes memory = test::random_bytes(kChunkSize, 2);
  place.parts.memory.begin(true)->write(0, memory);
  place.parts.memory.begin_run(true);
  place.write();
  PublishOptions options;
  MachineMoment moment{test::some_stamp(), test::random_bytes(5000, 3), {}};
  SECTION("before the freeze") {
    options.checkpoint = [](const std::function<void()>&) -> MachineMoment { throw Error(ErrorKind::kVm, "gone"); };
    CHECK((test::kind_thrown([&] { place.parts.publisher.publish(options, {}); }) == ErrorKind::kVm));
  }
  SECTION("after the freeze") {
    options.checkpoint = [](const std::function<void()>& freeze) -> MachineMoment {
      freeze();
      throw Error(ErrorKind::kVm, "gone");
    };
    CHECK((test::kind_thrown([&] { place.parts.publisher.publish(options, {}); }) == ErrorKind::kVm));
  }
  CHECK(place.parts.state.now().phase == SessionPhase::kRunning);
  CHECK(place.parts.memory.changed_chunks() == 1);
  Bytes frozen(kChunkSize);
  CHECK((test::kind_thrown([&] { place.parts.memory.frozen().read_frozen(0, frozen); }) == ErrorKind::kBug));
  options.checkpoint = [&](const std::function<void()>& freeze) {
    freeze();
    return moment;
  };
  CHECK(place.parts.publisher.publish(options, {}).version == 2);
  CHECK(place.parts.state.now().phase == SessionPhase::kRunning);
  CHECK(place.parts.state.now().base_version.suspended());
  CHECK((test::read_image(*place.parts.memory.image(), kChunkSize) == memory));
  place.parts.memory.abandon();
}

TEST_CASE("a publish asks the repository nothing when the phase refuses it", "[session]") {
  Place place;
  place.parts.memory.begin(true);
  place.parts.memory.begin_run(true);
  const auto store = std::make_shared<test::FaultStore>(place.account.remote.store);
  place.account.remote.store = store;
  CHECK((test::kind_thrown([&] { place.parts.publisher.publish({}, {}); }) == ErrorKind::kVm));
  CHECK(store->calls() == 0);
  place.parts.memory.abandon();
}
