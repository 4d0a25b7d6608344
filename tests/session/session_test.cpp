#include "session/session.h"

#include <catch2/catch.hpp>

#include "base/file.h"
#include "session/import.h"
#include "support/bytes.h"

using namespace isr;

namespace {

/// A repository in a directory and alice's parcel of one disk in it.
struct Place {
  TempDirectory directory;
  RepositoryEntry entry{"home", (directory.path() / "repository").string(), "alice"};
  Account account;
  ParcelEntry parcel;

  Place() {
    Paths paths;
    paths.state = directory.path() / "state";
    paths.cache = directory.path() / "cache";
    prepare_store_location(entry.url);
    const auto store = open_store(entry.url);
    init_repository(*store);
    create_user(paths, entry, *store, "correct horse", random_key());
    OpenOptions options;
    options.use_keyring = false;
    account = open_account(
        paths, entry, [] { return std::string("correct horse"); }, options);
    const fs::path file = directory.path() / "disk.raw";
    replace_file(file, test::random_bytes(4 * kChunkSize, 1));
    ImportResult result;
    ParcelVersion version;
    version.images.push_back(import_disk(account, "disk", *open_disk_source(file, "raw"), {}, {}, result));
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
