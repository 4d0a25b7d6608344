#include "session/session.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "account/version_reader.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "support/error_kind.h"
#include "support/fault_store.h"
#include "support/lying_store.h"
#include "support/no_threads.h"
#include "support/session_parts.h"
#include "support/silent_store.h"
#include "transfer/new_version.h"

using namespace isr;

namespace {

using Place = test::CheckedOut;
using test::UnwritableState;

/// As if a guest had been suspended that has written these to its memory and its devices.
void suspend(Session& session, ByteView memory, ByteView device, bool fresh) {
  session.memory().begin(fresh)->write(0, memory);
  session.memory().begin_run(fresh);
  session.memory().keep({test::some_stamp(), to_bytes(device), {}});
  session.memory().abandon();
}

Bytes memory_of(const Session& session, std::size_t length) {
  Bytes bytes(length);
  session.images().image("memory")->read(0, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("checkout refuses a parcel that is checked out on this host", "[session]") {
  Place place;
  const auto refused = [&] {
    return test::kind_thrown([&] { check_out(place.account, place.parcel, LockMode::kAttended, {}, {}); });
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
    const auto fresh = session.memory().begin(true);
    Bytes bytes(2 * kChunkSize);
    fresh->read(0, bytes);
    CHECK((bytes == Bytes(2 * kChunkSize)));
    fresh->write(0, test::random_bytes(kChunkSize, 4));
    session.memory().abandon();  // QEMU did not start
  }
  Session session(place.account, place.parcel);
  REQUIRE(session.state().phase == SessionPhase::kSuspended);
  CHECK((memory_of(session, kChunkSize) == memory));
  CHECK((session.memory().device_state() == device));
  SECTION("and void from then on") {
    session.memory().begin(true);
    session.memory().begin_run(true);
    CHECK((memory_of(session, kChunkSize) == Bytes(kChunkSize)));
    CHECK_FALSE(session.state().stamp.has_value());
    CHECK(session.state().phase == SessionPhase::kRunning);
  }
}

TEST_CASE("a suspend that could not be written down leaves a running machine", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.memory().begin(true);
  session.memory().begin_run(true);
  fs::rename(place.state_file(), place.directory.path() / "kept");
  fs::create_directory(place.state_file());
  CHECK_THROWS(session.memory().keep({test::some_stamp(), test::random_bytes(5000, 3), {}}));
  fs::remove(place.state_file());
  session.keep_network(NetworkMode::kUser);  // the guest goes on, and the description is written again
  const auto written = read_session_state(place.account.host.parcel_directory(place.parcel),
                                          place.account.host.device_key, place.parcel.id);
  CHECK(written->phase == SessionPhase::kRunning);
  CHECK_FALSE(written->stamp.has_value());
}

namespace {

/// A disk that fails as soon as the entries of one directory are to be synced, and from then on.
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

/// In the place of the C library's.
extern "C" int fsync(int fd) {
  if (FailingDisk::fails(fd)) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

TEST_CASE("a suspend that the disk may take for made is put right before the guest goes on", "[session]") {
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
    CHECK(written().phase == SessionPhase::kSuspended);  // and neither could this be taken back
    CHECK((test::kind_thrown([&] { session.make_state_certain(); }) == ErrorKind::kIo));
  }
  session.make_state_certain();
  CHECK(written().phase == SessionPhase::kRunning);
  CHECK_FALSE(written().stamp.has_value());
  session.memory().abandon();
}

namespace {

/// A guest that was suspended with these chunks of memory, and goes on.
struct Resumed : Place {
  Bytes memory = test::random_bytes(6 * kChunkSize, 2);
  Session session{account, parcel};
  MachineMoment moment{test::some_stamp(), test::random_bytes(5000, 3), {}};

  Resumed() {
    suspend(session, memory, moment.device_state, true);
    PublishOptions options;
    options.memory = true;
    session.publisher().publish(options, {});
    session.memory().begin(false);
    session.memory().begin_run(false);
    const auto change = test::random_bytes(kPageSize, 4);  // of QEMU's own
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
  /// By a sync or a suspend, which must not say that it was.
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

TEST_CASE("a suspend and a sync refuse memory that differs from QEMU's, name the page, and leave the guest running",
          "[session]") {
  Resumed guest;
  const bool suspends = GENERATE(true, false);
  CAPTURE(suspends);
  const std::uint64_t version = guest.newest();
  for (const std::uint64_t page : {0, 7, 32, 40, 100}) guest.sample(page * kPageSize);
  guest.moment.memory.seed = 4711;
  bool is_sampled = false;
  std::string where;
  SECTION("a page of its own") {
    guest.moment.memory.sample[2].bytes[17] ^= 1;
    is_sampled = true;
    where = "0x20000";
  }
  SECTION("a page that lies below") {
    guest.moment.memory.sample[4].bytes[4095] ^= 1;
    is_sampled = true;
    where = "0x64000";
  }
  SECTION("a page that was made zeros though nobody gave it back") {
    guest.session.memory().live()->copy(5 * kChunkSize + kPageSize, Bytes(kPageSize));
    where = "0xa0000";
  }
  SECTION("a chunk of which a page was copied that is not QEMU's own") {
    guest.session.memory().live()->copy(3 * kChunkSize, test::random_bytes(kPageSize, 5));
    where = "0x60000";
  }
  const std::string refusal = guest.refusal(suspends);
  CHECK_THAT(refusal, Catch::Contains(where));
  if (is_sampled) CHECK_THAT(refusal, Catch::Contains("(sample 4711)"));
  CHECK(guest.session.state().phase == SessionPhase::kRunning);
  CHECK(guest.newest() == version);
  CHECK_THAT(guest.refusal(suspends), Catch::Contains(where));  // not the second time either
}

TEST_CASE("a suspend and a sync accept memory that the guest has changed, given back or left alone", "[session]") {
  Resumed guest;
  const bool suspends = GENERATE(true, false);
  CAPTURE(suspends);
  guest.session.memory().live()->zero(4 * kChunkSize, kPageSize);
  std::fill_n(guest.memory.begin() + 4 * kChunkSize, kPageSize, std::uint8_t{0});
  for (const std::uint64_t page : {0, 7, 32, 40, 100, 128}) guest.sample(page * kPageSize);
  CHECK(guest.refusal(suspends).empty());
  if (suspends) {
    CHECK((memory_of(guest.session, guest.memory.size()) == guest.memory));
    return;
  }
  // After a failed sync, and a sync that was made, all is as before: nothing is taken for given back.
  guest.moment.memory.sample[0].bytes[0] ^= 1;
  CHECK_FALSE(guest.refusal(false).empty());
  guest.moment.memory.sample[0].bytes[0] ^= 1;
  guest.own(2 * kChunkSize, test::random_bytes(kPageSize, 9));
  guest.sample(2 * kChunkSize);
  CHECK(guest.refusal(true).empty());
  CHECK((memory_of(guest.session, guest.memory.size()) == guest.memory));
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

/// By the suspend or sync of a guest of whose memory nothing is on this host.
int objects_fetched(bool suspends, bool samples) {
  Place place;
  const Bytes memory = test::random_bytes(6 * kChunkSize, 2);
  {
    Session session(place.account, place.parcel);
    suspend(session, memory, test::random_bytes(5000, 3), true);
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

TEST_CASE("memory that is not on this host is not fetched to be compared with what QEMU has", "[session]") {
  CHECK(objects_fetched(true, true) == 0);
  CHECK(objects_fetched(false, true) == objects_fetched(false, false));
}

TEST_CASE("a machine whose memory was kept while the rest was out of reach can be synced after a resume", "[session]") {
  Place place;
  Bytes memory = test::random_bytes(6 * kChunkSize, 2);
  const Bytes device = test::random_bytes(5000, 3);
  {
    Session session(place.account, place.parcel);
    suspend(session, memory, device, true);
    PublishOptions options;
    options.memory = true;
    session.publisher().publish(options, {});
  }
  fs::remove_all(place.account.host.paths.cache);  // fetched from the repository from now on
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
  CHECK((memory_of(session, memory.size()) == memory));
  session.memory().abandon();
}

namespace {

Bytes disk_of(const Session& session) {
  Bytes bytes(kChunkSize);
  session.images().image("disk")->read(0, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("a change of state that could not be written down drops nothing", "[session]") {
  Place place;
  const Bytes disk = test::random_bytes(kChunkSize, 7);
  const Bytes memory = test::random_bytes(kChunkSize, 2);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, disk);
  suspend(*session, memory, test::random_bytes(5000, 3), true);
  SECTION("of a discard") {
    const UnwritableState unwritable(place);
    CHECK_THROWS(session->discard());
  }
  SECTION("of the start of another guest") {
    session->memory().begin(true);
    const UnwritableState unwritable(place);
    CHECK_THROWS(session->memory().begin_run(true));
    session->memory().abandon();
  }
  for (int again = 0; again < 2; ++again) {
    CHECK(session->state().phase == SessionPhase::kSuspended);
    CHECK(session->state().stamp.has_value());
    CHECK((disk_of(*session) == disk));
    CHECK((memory_of(*session, kChunkSize) == memory));
    CHECK(session->memory().device_state().size() == 5000);
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
  }
}

namespace {

/// Does something once a head has been put.
class HookedPublish : public test::FaultStore {
 public:
  HookedPublish(BlobStorePtr inner, std::function<void()> hook)
      : FaultStore(std::move(inner)), hook_(std::move(hook)) {}
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    const PutResult result = FaultStore::put_new(name, bytes, stop);
    const bool is_new_head = name.find("/heads/") != std::string_view::npos && result == PutResult::kCreated;
    if (is_new_head) hook_();  // not of one that is put again, to be durable
    return result;
  }

 private:
  std::function<void()> hook_;
};

/// Another host's head comes first.
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

}  // namespace

TEST_CASE("another repository that has come to the address is neither published to nor read", "[session]") {
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

TEST_CASE("the lease of a session is not renewed in another repository that has come to the address", "[session]") {
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
    fs::copy(kept / "parcels", root / "parcels", fs::copy_options::recursive);  // with the lock
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

TEST_CASE("a publish adopts the head that it compared, not what the store says next", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const Sha256 first = load_version(place.account, place.parcel).head.hash;
  const Bytes other = make_head(place.account, place.parcel, {2, first}, session.state().base_version);
  const auto store = std::make_shared<test::LyingStore>(place.account.remote.store);
  place.account.remote.store = std::make_shared<HookedPublish>(store, [&] {
    const std::string name = head_name(place.parcel.chain(), 2);
    store->lie(name, {store->get(name)->bytes, other});
  });
  session.images().image("disk")->write(0, test::random_bytes(kChunkSize, 7));
  CHECK(session.publisher().publish({}, {}).version == 2);
  CHECK((session.state().base_hash == place.account.host.trust->seen(place.parcel.chain())->hash));
}

TEST_CASE("a publish that could not be written down has dropped nothing, and counts", "[session]") {
  Place place;
  const Bytes disk = test::random_bytes(kChunkSize, 7);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, disk);
  {
    std::optional<UnwritableState> unwritable;
    const BlobStorePtr store = place.account.remote.store;
    place.account.remote.store = std::make_shared<HookedPublish>(store, [&] { unwritable.emplace(place); });
    CHECK_THROWS(session->publisher().publish({}, {}));
    place.account.remote.store = store;
  }
  CHECK(session->state().base == 1);
  CHECK((disk_of(*session) == disk));
  SECTION("for whoever opens the session next") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == 2);
    CHECK_FALSE(session->images().is_dirty());
  }
  SECTION("for the next publish") {
    session->images().image("disk")->write(100, Bytes(16, 0x5a));
    const PublishResult result = session->publisher().publish({}, {});
    CHECK(result.fork.empty());
    CHECK(result.version == 3);
    CHECK((ByteView(disk_of(*session)).subspan(100, 16)[15] == 0x5a));
    return;
  }
  CHECK((disk_of(*session) == disk));
}

namespace {

/// Objects do not get through before open() is called.
class SlowStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    auto is_open = is_open_.lock();
    is_open.wait(opened_, [&] { return *is_open; });
    return FaultStore::put_new(name, bytes, stop);
  }
  void open() {
    *is_open_.lock() = true;
    opened_.notify_all();
  }

 private:
  Sync<bool> is_open_{false};
  std::condition_variable opened_;
};

}  // namespace

namespace {

/// Takes nothing.
class ClosedStore : public test::FaultStore {
 public:
  using FaultStore::FaultStore;
  PutResult put_new(std::string_view, ByteView, std::stop_token) override {
    throw Error(ErrorKind::kOffline, "closed");
  }
};

}  // namespace

TEST_CASE("a publish goes on without settling beside it when no thread is to be had", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const test::NoThreads none;  // nothing to seal or to send needs one
  CHECK(session.publisher().publish({}, {}).unchanged);
}

TEST_CASE("a publish that gets no answer ends when it is told to", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(4 * kChunkSize, 7));
  const Bytes expected = disk_of(session);
  suspend(session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
  const BlobStorePtr store = place.account.remote.store;
  std::string silent_about;
  bool of_boot_pack = false;
  SECTION("to an object") { silent_about = "objects/"; }
  SECTION("to an object of a boot pack") {
    silent_about = "objects/";
    of_boot_pack = true;
  }
  SECTION("to a look at the lock") { silent_about = "/locks/"; }
  SECTION("to the head") { silent_about = "/heads/0000000000000002"; }
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
  CHECK((disk_of(session) == expected));
}

TEST_CASE("memory that a failed sync had sealed is kept by a suspend when nothing else was written", "[session]") {
  Place place;
  const Bytes memory = test::random_bytes(2 * kChunkSize, 2);
  const Bytes device = test::random_bytes(5000, 3);
  {
    Session session(place.account, place.parcel);
    session.memory().begin(true)->write(0, memory);
    session.memory().begin_run(true);
    const BlobStorePtr store = place.account.remote.store;
    place.account.remote.store = std::make_shared<ClosedStore>(store);
    PublishOptions options;
    options.checkpoint = [&](const std::function<void()>& freeze) {
      freeze();
      return MachineMoment{test::some_stamp(), device, {}};
    };
    CHECK_THROWS(session.publisher().publish(options, {}));
    place.account.remote.store = store;
    session.memory().keep({test::some_stamp(), device, {}});
    session.memory().abandon();
    CHECK((memory_of(session, memory.size()) == memory));
  }
  const Session session(place.account, place.parcel);
  CHECK((memory_of(session, memory.size()) == memory));
}

TEST_CASE("the journal of what is written during an upload is settled before that ends", "[session]") {
  constexpr std::uint64_t kCalm = 64U << 20U;  // what may stay of a journal, and a segment's size
  Place place;
  Session session(place.account, place.parcel);
  session.images().image("disk")->write(0, test::random_bytes(4 * kChunkSize, 7));
  const auto slow = std::make_shared<SlowStore>(place.account.remote.store);
  place.account.remote.store = slow;
  std::atomic<bool> uploads{false};
  PublishResult result;
  std::jthread publish([&] {
    result = session.publisher().publish({}, [&](std::string_view step, std::uint64_t, std::uint64_t) {
      if (step == "upload") uploads = true;
    });
  });
  while (!uploads) std::this_thread::yield();
  const auto disk = session.images().image("disk");
  Bytes last;
  for (std::uint64_t round = 0; round * 4 * kChunkSize < kCalm + (kCalm / 4); ++round) {
    last = test::random_bytes(4 * kChunkSize, 100 + round);
    disk->write(0, last);
  }
  CHECK(session.images().journal_bytes() > kCalm);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (session.images().journal_bytes() > kCalm && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  CHECK(session.images().journal_bytes() < kCalm);
  slow->open();
  publish.join();
  CHECK(result.version == 2);
  Bytes now(last.size());
  disk->read(0, now);
  CHECK((now == last));
}

namespace {

void fail_publish(Place& place, Session& session, const BlobStorePtr& line, bool memory) {
  const BlobStorePtr store = std::exchange(place.account.remote.store, line);
  PublishOptions options;
  options.memory = memory;
  CHECK((test::kind_thrown([&] { session.publisher().publish(options, {}); }) == ErrorKind::kTransient));
  place.account.remote.store = store;
}

/// The version is there, but the answer is lost.
void lose_publish(Place& place, Session& session, bool memory = true) {
  const auto lose = [] { throw Error(ErrorKind::kTransient, "no answer"); };
  fail_publish(place, session, std::make_shared<HookedPublish>(place.account.remote.store, lose), memory);
}

/// A head does not arrive before the next one is sent.
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

/// Heads do not arrive, until deliver() is called.
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

TEST_CASE("any of the publishes without an answer may be the one that happened", "[session]") {
  Place place;
  const std::size_t arrives = GENERATE(0U, 1U, 2U);
  CAPTURE(arrives);
  Session session(place.account, place.parcel);
  const auto withheld = std::make_shared<WithheldHeads>(place.account.remote.store);
  for (std::uint64_t round = 0; round < 3; ++round) {
    session.images().image("disk")->write(100 * round, test::random_bytes(700, round + 11));
    fail_publish(place, session, withheld, false);
  }
  const Bytes expected = disk_of(session);
  withheld->deliver(arrives);
  const PublishResult result = session.publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.unchanged == (arrives == 2));
  CHECK(result.version == (arrives == 2 ? 2 : 3));
  CHECK((disk_of(session) == expected));
}

TEST_CASE("a publish without an answer is found behind a version of another host", "[session]") {
  Place place;
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, test::random_bytes(700, 11));
  lose_publish(place, *session, false);
  publish_as_another(place);
  bool changed = false;
  SECTION("nothing has changed since") {}
  SECTION("nothing has changed since, as another daemon finds it") {
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

TEST_CASE("a session with a publish without an answer opens when the history is refused", "[session]") {
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
  place.account.remote.store->remove(first);  // the one that this host has seen

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

TEST_CASE("a publish without an answer behind lost versions is refused with the ways out, and can be given up",
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

TEST_CASE("a publish that had arrived is not believed before its head is known to be durable", "[session]") {
  class FullStore : public test::FaultStore {
   public:
    using FaultStore::FaultStore;
    PutResult put_new(std::string_view, ByteView, std::stop_token) override {
      throw Error(ErrorKind::kIo, "the store is full");
    }
  };
  Place place;
  const Bytes ours = test::random_bytes(kChunkSize, 11);
  {
    Session session(place.account, place.parcel);
    session.images().image("disk")->write(0, ours);
    lose_publish(place, session, false);
  }
  const BlobStorePtr store =
      std::exchange(place.account.remote.store, std::make_shared<FullStore>(place.account.remote.store));
  Session session(place.account, place.parcel);
  CHECK(session.state().pending.size() == 1);
  CHECK(session.state().base == 1);
  place.account.remote.store = store;
  CHECK(session.publisher().publish({}, {}).version == 2);
  CHECK(session.state().pending.empty());
}

TEST_CASE("a lock that is to be taken and cannot be asked for is an error, not a wish that is forgotten", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  place.account.remote.store =
      std::make_shared<test::FaultStore>(place.account.remote.store, std::vector(99, test::Fault::kBefore));
  CHECK_FALSE(session.lock().secure({}, {}));
  CHECK((test::kind_thrown([&] { session.lock().secure("wanted", {}); }) == ErrorKind::kTransient));
}

TEST_CASE("two publishes in a row without an answer make no fork", "[session]") {
  Place place;
  const bool second_arrives = GENERATE(true, false);
  CAPTURE(second_arrives);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  const auto disk = [&] { return session->images().image("disk"); };
  Bytes expected = disk_of(*session);
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
  CHECK((disk_of(*session) == expected));
  const std::uint64_t happened = second_arrives ? 3 : 2;
  std::uint64_t version = happened + 1;
  SECTION("with a third change") { write(9000, 9); }
  SECTION("with nothing new, as another daemon finds it") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == happened);
    CHECK(session->images().is_dirty() != second_arrives);
    if (second_arrives) version = happened;
  }
  SECTION("with a third change that another daemon finds") {
    write(9000, 9);
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == happened);
  }
  CHECK((disk_of(*session) == expected));
  const PublishResult result = session->publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.version == version);
  CHECK((disk_of(*session) == expected));
  session.reset();
  session = std::make_unique<Session>(place.account, place.parcel);
  CHECK((disk_of(*session) == expected));
  session->discard();
  CHECK((disk_of(*session) == expected));
}

TEST_CASE("a head that arrives only when the next is published is no other host's", "[session]") {
  Place place;
  Session session(place.account, place.parcel);
  const auto late = std::make_shared<LateStore>(place.account.remote.store);
  session.images().image("disk")->write(0, test::random_bytes(700, 7));
  fail_publish(place, session, late, false);
  session.images().image("disk")->write(500, test::random_bytes(700, 8));
  const Bytes expected = disk_of(session);
  place.account.remote.store = late;
  const PublishResult result = session.publisher().publish({}, {});
  CHECK(result.fork.empty());
  CHECK(result.version == 3);
  session.discard();
  CHECK((disk_of(session) == expected));
}

TEST_CASE("a publish that is found to have happened leaves what was begun anew since", "[session]") {
  Place place;
  const Bytes disk = test::random_bytes(kChunkSize, 7);
  const Bytes memory = test::random_bytes(3 * kChunkSize, 2);
  auto session = std::make_unique<Session>(place.account, place.parcel);
  session->images().image("disk")->write(0, disk);
  suspend(*session, memory, test::random_bytes(kChunkSize + 5000, 3), true);
  lose_publish(place, *session);
  const auto reopen = [&] {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
    CHECK(session->state().base == 2);
  };
  SECTION("nothing") {
    reopen();
    CHECK_FALSE(session->images().is_dirty());
    CHECK((memory_of(*session, memory.size()) == memory));
    CHECK(session->memory().device_state().size() == kChunkSize + 5000);
  }
  SECTION("the devices of a machine that went on") {
    const Bytes device = test::random_bytes(3000, 4);
    suspend(*session, test::random_bytes(kChunkSize, 5), device, false);
    reopen();
    CHECK((session->memory().device_state() == device));
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
  auto session = std::make_unique<Session>(place.account, place.parcel);
  const Bytes before = disk_of(*session);
  session->images().image("disk")->write(0, test::random_bytes(kChunkSize, 7));
  suspend(*session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
  lose_publish(place, *session);
  session->discard();
  Bytes wanted = before;
  SECTION("and is published as it is") {}
  SECTION("and as it is changed") {
    wanted = test::random_bytes(kChunkSize, 9);
    session->images().image("disk")->write(0, wanted);
  }
  SECTION("nor when another daemon finds it") {
    session.reset();
    session = std::make_unique<Session>(place.account, place.parcel);
  }
  CHECK((disk_of(*session) == wanted));
  const PublishResult result = session->publisher().publish({}, {});
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
  const auto disk = session.images().image("disk");
  disk->write(0, test::random_bytes(kChunkSize, 7));
  CHECK_FALSE(ends());
  session.publisher().publish({}, {});
  SECTION("as it was published") { CHECK(ends()); }
  SECTION("not with what was written since") {
    disk->write(kChunkSize, test::random_bytes(512, 8));
    CHECK_FALSE(ends());
    session.publisher().publish({}, {});
    CHECK(ends());
  }
  SECTION("not with what was discarded since") {
    disk->discard(kChunkSize, kChunkSize);
    CHECK_FALSE(ends());
    session.publisher().publish({}, {});
    CHECK(ends());
  }
  SECTION("not with memory that was suspended since") {
    suspend(session, test::random_bytes(kChunkSize, 2), test::random_bytes(5000, 3), true);
    CHECK_FALSE(ends());
    session.publisher().publish({}, {});
    CHECK_FALSE(ends());
    PublishOptions with_memory;
    with_memory.memory = true;
    session.publisher().publish(with_memory, {});
    CHECK(ends());
  }
  SECTION("also when nothing differed") {
    disk->write(0, test::random_bytes(kChunkSize, 7));
    CHECK(session.publisher().publish({}, {}).unchanged);
    CHECK(ends());
  }
}

namespace {

/// Another host's version 2.
void publish_theirs(const Place& place) {
  const LoadedVersion first = load_version(place.account, place.parcel);
  ParcelVersion theirs = first.version;
  theirs.message = "theirs";
  REQUIRE(place.account.chain(place.parcel.chain())
              .publish(2, make_head(place.account, place.parcel, {2, first.head.hash}, theirs)));
}

}  // namespace

TEST_CASE("a publish that becomes a fork and gets no answer ends when it is told to", "[session]") {
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

TEST_CASE("work waits for junk under the next number to be accepted, and is kept also when it loses there",
          "[session]") {
  Place place;
  const std::string chain = place.parcel.chain();
  Session session(place.account, place.parcel);
  const Bytes ours = test::random_bytes(kChunkSize, 2);
  session.images().image("disk")->write(0, ours);
  place.account.remote.store->put_new(head_name(chain, 2), as_bytes("junk"));
  CHECK(test::kind_thrown([&] { session.publisher().publish({}, {}); }) == ErrorKind::kHistory);
  CHECK((disk_of(session) == ours));
  const StoredHead first = place.account.chain(chain).accept_older(1, "junk");
  SECTION("it becomes the version behind the junk") {
    CHECK(session.publisher().publish({}, {}).version == 3);
    CHECK(session.state().base == 3);
    CHECK_FALSE(session.images().is_dirty());
    session.images().image("disk")->write(0, test::random_bytes(kChunkSize, 3));
    CHECK(session.publisher().publish({}, {}).version == 4);
  }
  SECTION("another host is first at the number behind the junk") {
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

TEST_CASE("a session stays until the fork that it became opens", "[session]") {
  /// Takes every object and gives none back while it hides them.
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
  SECTION("as a version") { reader.open(*fork.version.find("disk"))->read(0, found); }
  SECTION("as a parcel of its own") {
    const ParcelEntry lab = branch_parcel(place.account, place.parcel, fork, "lab");
    const LoadedVersion branch = load_version(place.account, lab);
    CHECK(branch.version.copy_of == "work@" + result.fork);
    CHECK_FALSE(place.account.lock(lab).show()->record.held);
    reader.open(*branch.version.find("disk"))->read(0, found);
  }
  SECTION("as the newest version") {
    CHECK(roll_back(place.account, place.parcel, fork.choice(), {}) == 3);
    reader.open(*load_version(place.account, place.parcel).version.find("disk"))->read(0, found);
  }
  CHECK((found == ours));
}
