#include "session/session.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "session/import.h"
#include "support/account_place.h"
#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/fault_store.h"

using namespace isr;

namespace {

/// And a parcel of one disk in it.
struct Place : test::AccountPlace {
  ParcelEntry parcel;

  Place() {
    const fs::path file = directory.path() / "disk.raw";
    replace_file(file, test::random_bytes(4 * kChunkSize, 1));
    ImportResult result;
    ParcelVersion version;
    version.images.push_back(import_disk(account, "disk", *open_disk_source(file, {.format = "raw"}), {}, {}, result));
    version.vm.memory_bytes = 16 << 20;
    parcel = create_parcel(account, "work", version);
    Session::create(account, parcel, LockMode::kAttended, {}, {});
  }

  fs::path state_file() const { return account.parcel_directory(parcel) / "session"; }
};

VmStamp stamp() {
  VmStamp stamp;
  stamp.qemu_version = "7.2.22";
  stamp.machine = "pc-q35-7.2";
  stamp.cpu_model = "qemu64";
  stamp.accelerator = "tcg";
  return stamp;
}

/// As if a guest had been suspended that has written these to its memory and its devices.
void suspend(Session& session, ByteView memory, ByteView device, bool fresh) {
  session.begin_memory(fresh)->write(0, memory);
  session.begin_run(fresh);
  session.keep_memory(stamp(), device);
  session.abandon_memory();
}

Bytes memory_of(const Session& session, std::size_t length) {
  Bytes bytes(length);
  session.image("memory")->read(0, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("what is checked out here is not checked out again", "[session]") {
  Place place;
  const auto refused = [&] {
    return test::kind_thrown([&] { Session::create(place.account, place.parcel, LockMode::kAttended, {}, {}); });
  };
  const auto before = read_file(place.state_file(), 1 << 20);
  SECTION("before its daemon runs") { CHECK((refused() == ErrorKind::kVm)); }
  SECTION("while it is in use") {
    const Session session(place.account, place.parcel);
    CHECK((refused() == ErrorKind::kVm));
  }
  CHECK((read_file(place.state_file(), 1 << 20) == before));
  SECTION("while another process is about to write its description") {
    const auto flock = FileLock::try_acquire(place.state_file().parent_path() / "lock");
    fs::remove(place.state_file());
    CHECK((refused() == ErrorKind::kVm));
  }
  CHECK(place.account.lock(place.parcel).show()->record.s == 1);
}

TEST_CASE("suspended memory is there until a fresh guest runs", "[session]") {
  Place place;
  const Bytes memory = test::random_bytes(kChunkSize, 2);
  const Bytes device = test::random_bytes(5000, 3);
  {
    Session session(place.account, place.parcel);
    suspend(session, memory, device, true);
    const auto fresh = session.begin_memory(true);
    Bytes bytes(2 * kChunkSize);
    fresh->read(0, bytes);
    CHECK((bytes == Bytes(2 * kChunkSize)));
    fresh->write(0, test::random_bytes(kChunkSize, 4));
    session.abandon_memory();  // QEMU did not start
  }
  Session session(place.account, place.parcel);
  REQUIRE(session.state().phase == SessionPhase::kSuspended);
  CHECK((memory_of(session, kChunkSize) == memory));
  CHECK((session.device_state() == device));
  SECTION("and void from then on") {
    session.begin_memory(true);
    session.begin_run(true);
    CHECK((memory_of(session, kChunkSize) == Bytes(kChunkSize)));
    CHECK_FALSE(session.state().stamp.has_value());
    CHECK(session.state().phase == SessionPhase::kRunning);
  }
}

TEST_CASE("a suspend that could not be written down leaves a running machine", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.begin_memory(true);
  session.begin_run(true);
  fs::rename(place.state_file(), place.directory.path() / "kept");
  fs::create_directory(place.state_file());
  CHECK_THROWS(session.keep_memory(stamp(), test::random_bytes(5000, 3)));
  fs::remove(place.state_file());
  session.save_state();  // as a sync does while the guest goes on
  const auto written =
      read_session_state(place.account.parcel_directory(place.parcel), place.account.device_key, place.parcel.id);
  CHECK(written->phase == SessionPhase::kRunning);
  CHECK_FALSE(written->stamp.has_value());
}

namespace {

/// A store that carries out the publish of a version, but loses the answer.
class LostPublish : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view name, ByteView bytes) override {
    const PutResult result = FaultStore::put_new(name, bytes);
    if (name.find("/heads/") != std::string_view::npos) throw Error(ErrorKind::kTransient, "no answer");
    return result;
  }
};

void lose_publish(Place& place, Session& session) {
  const BlobStorePtr store = place.account.store;
  place.account.store = std::make_shared<LostPublish>(store);
  Session::PublishOptions options;
  options.memory = true;
  CHECK((test::kind_thrown([&] { session.publish(options, {}); }) == ErrorKind::kTransient));
  place.account.store = store;
}

}  // namespace

TEST_CASE("a publish that is found to have happened leaves what was begun anew since", "[session]") {
  Place place;
  const Bytes disk = test::random_bytes(kChunkSize, 7);
  const Bytes memory = test::random_bytes(3 * kChunkSize, 2);
  const auto disk_of = [](const Session& session) {
    Bytes bytes(kChunkSize);
    session.image("disk")->read(0, bytes);
    return bytes;
  };
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->image("disk")->write(0, disk);
  suspend(*session, memory, test::random_bytes(kChunkSize + 5000, 3), true);
  lose_publish(place, *session);
  const auto reopen = [&] {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == 2);
  };
  SECTION("nothing") {
    reopen();
    CHECK_FALSE(session->dirty());
    CHECK((memory_of(*session, memory.size()) == memory));
    CHECK(session->device_state().size() == kChunkSize + 5000);
  }
  SECTION("the devices of a machine that went on") {
    const Bytes device = test::random_bytes(3000, 4);
    suspend(*session, test::random_bytes(kChunkSize, 5), device, false);
    reopen();
    CHECK((session->device_state() == device));
    Bytes expected = memory;
    std::ranges::copy(test::random_bytes(kChunkSize, 5), expected.begin());
    CHECK((memory_of(*session, memory.size()) == expected));
  }
  SECTION("the memory of a machine that has booted") {
    Bytes expected = test::random_bytes(kChunkSize, 5);
    suspend(*session, expected, test::random_bytes(3000, 4), true);
    reopen();
    expected.resize(memory.size());
    CHECK((memory_of(*session, memory.size()) == expected));
  }
  CHECK((disk_of(*session) == disk));
}

TEST_CASE("a discard after a publish that had happened is no other host's work", "[session]") {
  Place place;
  const auto disk_of = [](const Session& session) {
    Bytes bytes(kChunkSize);
    session.image("disk")->read(0, bytes);
    return bytes;
  };
  auto session = std::make_unique<Session>(place.account, place.parcel);
  const Bytes before = disk_of(*session);
  session->image("disk")->write(0, test::random_bytes(kChunkSize, 7));
  suspend(*session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
  lose_publish(place, *session);
  session->discard();
  Bytes wanted = before;
  SECTION("and is published as it is") {}
  SECTION("and as it is changed") {
    wanted = test::random_bytes(kChunkSize, 9);
    session->image("disk")->write(0, wanted);
  }
  SECTION("nor when another daemon finds it") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
  }
  CHECK((disk_of(*session) == wanted));
  const PublishResult result = session->publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.version == 3);
  CHECK_FALSE(result.unchanged);
  CHECK((disk_of(*session) == wanted));
  CHECK_FALSE(load_version(place.account, place.parcel).version.suspended());
}

TEST_CASE("a session ends when all that is here was published, and only then", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const auto ends = [&] {
    const auto failure = test::kind_thrown([&] { session.end(); });
    CHECK(fs::exists(place.state_file()) == failure.has_value());
    CHECK((!failure || failure == ErrorKind::kVm));
    return !failure;
  };
  const auto disk = session.image("disk");
  disk->write(0, test::random_bytes(kChunkSize, 7));
  CHECK_FALSE(ends());
  session.publish({}, {});
  SECTION("as it was published") { CHECK(ends()); }
  SECTION("not with what was written since") {
    disk->write(kChunkSize, test::random_bytes(512, 8));
    CHECK_FALSE(ends());
    session.publish({}, {});
    CHECK(ends());
  }
  SECTION("not with what was discarded since") {
    disk->discard(kChunkSize, kChunkSize);
    CHECK_FALSE(ends());
    session.publish({}, {});
    CHECK(ends());
  }
  SECTION("not with memory that was suspended since") {
    suspend(session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
    CHECK_FALSE(ends());
    session.publish({}, {});
    CHECK_FALSE(ends());
    Session::PublishOptions with_memory;
    with_memory.memory = true;
    session.publish(with_memory, {});
    CHECK(ends());
  }
  SECTION("also when nothing differed") {
    disk->write(0, test::random_bytes(kChunkSize, 7));
    CHECK(session.publish({}, {}).unchanged);
    CHECK(ends());
  }
}
