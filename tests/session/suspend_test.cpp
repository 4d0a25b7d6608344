#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "session/session.h"
#include "support/error_kind.h"
#include "support/full_store.h"
#include "support/suspended_session.h"

using namespace isr;
using Place = test::CheckedOut;

TEST_CASE("suspended memory stays until a fresh guest runs", "[session]") {
  Place place;
  const Bytes memory = test::random_bytes(kChunkSize, 2);
  const Bytes device = test::random_bytes(5000, 3);
  {
    Session session(place.account, place.parcel);
    test::suspend(session, memory, device, true);
    const auto fresh = session.memory().begin(true);
    Bytes bytes(2 * kChunkSize);
    fresh->read(0, bytes);
    CHECK((bytes == Bytes(2 * kChunkSize)));
    fresh->write(0, test::random_bytes(kChunkSize, 4));
    session.memory().abandon();  // as when QEMU does not start
  }
  Session session(place.account, place.parcel);
  REQUIRE(session.state().phase == SessionPhase::kSuspended);
  CHECK((test::memory_of(session, kChunkSize) == memory));
  CHECK((session.memory().device_state() == device));
  SECTION("and is void after that") {
    session.memory().begin(true);
    session.memory().begin_run(true);
    CHECK((test::memory_of(session, kChunkSize) == Bytes(kChunkSize)));
    CHECK_FALSE(session.state().stamp.has_value());
    CHECK(session.state().phase == SessionPhase::kRunning);
  }
}

TEST_CASE("a suspend leaves the machine running when the state file cannot be written", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.memory().begin(true);
  session.memory().begin_run(true);
  fs::rename(place.state_file(), place.directory.path() / "kept");
  fs::create_directory(place.state_file());
  CHECK_THROWS(session.memory().keep({test::some_stamp(), test::random_bytes(5000, 3), {}}));
  fs::remove(place.state_file());
  session.keep_network(NetworkMode::kUser);  // the guest goes on, and the state file is written again
  const auto written = read_session_state(place.account.host.parcel_directory(place.parcel),
                                          place.account.host.device_key, place.parcel.id);
  CHECK(written->phase == SessionPhase::kRunning);
  CHECK_FALSE(written->stamp.has_value());
}

namespace {

/// While it exists, fsync() fails from the first sync of `directory` on.
struct FailingDisk {
  explicit FailingDisk(const fs::path& directory) { *directory_of().lock() = {directory, false}; }
  ~FailingDisk() { *directory_of().lock() = {}; }
  FailingDisk(const FailingDisk&) = delete;
  FailingDisk& operator=(const FailingDisk&) = delete;

  struct State {
    std::optional<fs::path> directory;
    bool fails = false;
  };
  static Sync<State>& directory_of() {
    static Sync<State> state;
    return state;
  }
  static bool fails(int fd) {
    auto state = directory_of().lock();
    if (!state->directory) return false;
    std::error_code ignored;
    state->fails |= fs::read_symlink("/proc/self/fd/" + std::to_string(fd), ignored) == *state->directory;
    return state->fails;
  }
};

}  // namespace

/// Replaces the C library's fsync().
extern "C" int fsync(int fd) {
  if (FailingDisk::fails(fd)) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

TEST_CASE("make_state_certain() repairs the state file when a failed suspend is on disk", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.memory().begin(true);
  session.memory().begin_run(true);
  const auto written = [&] {
    return *read_session_state(place.state_file().parent_path(), place.account.host.device_key, place.parcel.id);
  };
  {
    const FailingDisk failing(place.state_file().parent_path());
    CHECK_THROWS(session.memory().keep({test::some_stamp(), test::random_bytes(5000, 3), {}}));
    CHECK(session.state().phase == SessionPhase::kRunning);
    CHECK(written().phase == SessionPhase::kSuspended);  // nor could the change be undone on disk
    CHECK((test::kind_thrown([&] { session.make_state_certain(); }) == ErrorKind::kIo));
  }
  session.make_state_certain();
  CHECK(written().phase == SessionPhase::kRunning);
  CHECK_FALSE(written().stamp.has_value());
  session.memory().abandon();
}

TEST_CASE("a suspend keeps memory that a failed sync has sealed when nothing was written since", "[session]") {
  Place place;
  const Bytes memory = test::random_bytes(2 * kChunkSize, 2);
  const Bytes device = test::random_bytes(5000, 3);
  {
    Session session(place.account, place.parcel);
    session.memory().begin(true)->write(0, memory);
    session.memory().begin_run(true);
    const BlobStorePtr store = place.account.remote.store;
    place.account.remote.store = std::make_shared<test::FullStore>(store);
    PublishOptions options;
    options.checkpoint = [&](const std::function<void()>& freeze) {
      freeze();
      return MachineMoment{test::some_stamp(), device, {}};
    };
    CHECK_THROWS(session.publisher().publish(options, {}));
    place.account.remote.store = store;
    session.memory().keep({test::some_stamp(), device, {}});
    session.memory().abandon();
    CHECK((test::memory_of(session, memory.size()) == memory));
  }
  const Session session(place.account, place.parcel);
  CHECK((test::memory_of(session, memory.size()) == memory));
}

TEST_CASE("a change of phase drops nothing when the state file cannot be written", "[session]") {
  Place place;
  const Bytes disk = test::random_bytes(kChunkSize, 7);
  const Bytes memory = test::random_bytes(kChunkSize, 2);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, disk);
  test::suspend(*session, memory, test::random_bytes(5000, 3), true);
  SECTION("for a discard") {
    const test::UnwritableState unwritable(place);
    CHECK_THROWS(session->discard());
  }
  SECTION("for the start of a fresh guest") {
    session->memory().begin(true);
    const test::UnwritableState unwritable(place);
    CHECK_THROWS(session->memory().begin_run(true));
    session->memory().abandon();
  }
  for (int again = 0; again < 2; ++again) {
    CHECK(session->state().phase == SessionPhase::kSuspended);
    CHECK(session->state().stamp.has_value());
    CHECK((test::disk_of(*session) == disk));
    CHECK((test::memory_of(*session, kChunkSize) == memory));
    CHECK(session->memory().device_state().size() == 5000);
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
  }
}
