#include "chunkstore/pack_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <functional>
#include <map>
#include <thread>

#include "base/file.h"
#include "base/sqlite.h"
#include "base/sync.h"
#include "chunkstore/object_source_suite.h"
#include "chunkstore/pack_cache.h"
#include "chunkstore/pack_pins.h"
#include "chunkstore/pack_space.h"
#include "support/descriptor_limit.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::kind_thrown;

constexpr std::uint64_t kRecordHeader = 40;

struct Sample {
  explicit Sample(std::uint64_t seed, std::size_t size = 5000)
      : object(test::random_bytes(size, seed)), cid(cid_of(object)) {}
  Bytes object;
  Cid cid;
};

std::vector<Sample> samples(std::size_t count, std::size_t size = 5000, std::uint64_t first_seed = 0) {
  std::vector<Sample> all;
  for (std::size_t i = 0; i < count; ++i) all.emplace_back(first_seed + i, size);
  return all;
}

std::optional<Bytes> ask(PackStore& store, const Cid& cid) { return store.fetch(cid, Priority::kGuest, {}); }

void put_all(PackStore& store, const std::vector<Sample>& all) {
  for (const Sample& sample : all) store.put(sample.cid, sample.object);
}

std::size_t count_good(PackStore& store, const std::vector<Sample>& all) {
  return static_cast<std::size_t>(
      std::count_if(all.begin(), all.end(), [&](const Sample& s) { return ask(store, s.cid) == s.object; }));
}
std::size_t count_absent(PackStore& store, const std::vector<Sample>& all) {
  return static_cast<std::size_t>(
      std::count_if(all.begin(), all.end(), [&](const Sample& s) { return !ask(store, s.cid); }));
}

std::vector<fs::path> packs_of(const fs::path& store) {
  std::vector<fs::path> packs;
  for (const auto& entry : fs::directory_iterator(store / "packs")) packs.push_back(entry.path());
  std::sort(packs.begin(), packs.end());
  return packs;
}

void damage(const fs::path& file, std::uint64_t offset, std::size_t count = 1) {
  const auto fd = open_file(file, O_RDWR);
  Bytes bytes(count);
  read_exact_at(fd.get(), bytes, offset, file);
  for (auto& byte : bytes) byte ^= 0x10;
  write_all_at(fd.get(), bytes, offset, file);
}

/// A child process that runs `body` when it is told to, and then dies as by kill -9: no destructor runs. Make it before
/// a cache is opened: a cache has a thread, and a process forked beside it may inherit a lock that nobody gives back.
class KilledProcess {
 public:
  explicit KilledProcess(const std::function<void()>& body) {
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    const UniqueFd told(ends[0]);
    tell_ = UniqueFd(ends[1]);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ != 0) return;
    tell_.reset();
    char go = 0;
    if (::read(told.get(), &go, 1) != 1) ::_exit(1);
    try {
      body();
    } catch (...) {
      ::_exit(1);
    }
    ::raise(SIGKILL);
  }

  void run() {
    REQUIRE(::write(tell_.get(), "g", 1) == 1);
    int status = 0;
    REQUIRE(::waitpid(pid_, &status, 0) == pid_);
    REQUIRE(WIFSIGNALED(status));
  }

 private:
  UniqueFd tell_;
  pid_t pid_ = -1;
};

void in_killed_process(const std::function<void()>& body) { KilledProcess(body).run(); }

std::uint64_t blocks_of(const fs::path& store) {
  std::uint64_t blocks = 0;
  for (const auto& pack : packs_of(store)) {
    struct stat status {};
    REQUIRE(::stat(pack.c_str(), &status) == 0);
    blocks += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return blocks;
}

const PackStoreOptions kSettledOptions{.durable = true};

/// What of the packs reached the disk, for the tests that play a power cut. A write is in the page
/// cache until an fdatasync; one that fails leaves it there as clean, and it never reaches the disk.
/// What another process wrote is as if its sync had failed.
struct Disk {
  struct File {
    Bytes durable;
    std::vector<std::pair<std::uint64_t, Bytes>> dirty;  ///< by offset
  };
  std::map<std::string, File> packs;
  bool fail_syncs = false;
  int full_writes = 0;  ///< so many writes to packs meet a full disk
};
Sync<Disk>& disk() {
  static Sync<Disk> all;
  return all;
}

std::optional<std::string> pack_of(int fd) {
  std::error_code error;
  const std::string path = fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error).string();
  return path.ends_with(".pack") ? std::optional(path) : std::nullopt;
}

void note_write(int fd, const void* bytes, ssize_t count, off_t offset) {
  const auto path = count > 0 ? pack_of(fd) : std::nullopt;
  if (!path) return;
  const auto* first = static_cast<const std::uint8_t*>(bytes);
  disk().lock()->packs[*path].dirty.emplace_back(static_cast<std::uint64_t>(offset), Bytes(first, first + count));
}

/// A sync that fails then kills the process.
bool& syncs_kill() {
  static bool kill = false;
  return kill;
}

/// Syncs of directories fail.
bool& fail_directory_syncs() {
  static bool fail = false;
  return fail;
}

/// Runs once, before the next read of a record.
std::function<void()>& before_next_read() {
  static std::function<void()> body;
  return body;
}

/// The store as a power cut would leave it.
void copy_after_power_cut(const fs::path& store, const fs::path& copy) {
  fs::copy(store, copy, fs::copy_options::recursive);
  for (const auto& pack : packs_of(store)) {
    Bytes durable = disk().lock()->packs[pack.string()].durable;
    durable.resize(std::min<std::size_t>(durable.size(), fs::file_size(pack)));
    fs::remove(copy / "packs" / pack.filename());
    replace_file(copy / "packs" / pack.filename(), durable);
  }
}

}  // namespace

// In the place of the C library's:

extern "C" ssize_t preadv(int fd, const iovec* parts, int count, off_t offset) {
  if (before_next_read()) std::exchange(before_next_read(), nullptr)();
  return ::syscall(SYS_preadv, fd, parts, count, offset, 0);
}

extern "C" ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  if (disk().lock()->full_writes > 0 && pack_of(fd)) {
    disk().lock()->full_writes--;
    errno = ENOSPC;
    return -1;
  }
  const auto count = static_cast<ssize_t>(::syscall(SYS_pwrite64, fd, bytes, size, offset));
  note_write(fd, bytes, count, offset);
  return count;
}

extern "C" ssize_t pwritev(int fd, const iovec* parts, int part_count, off_t offset) {
  ssize_t total = 0;
  for (int i = 0; i < part_count; ++i) {
    const ssize_t count = ::pwrite(fd, parts[i].iov_base, parts[i].iov_len, offset + total);
    if (count < 0) return total > 0 ? total : count;
    total += count;
    if (count < static_cast<ssize_t>(parts[i].iov_len)) break;
  }
  return total;
}

extern "C" int fdatasync(int fd) {
  if (const auto path = pack_of(fd)) {
    auto state = disk().lock();
    auto& file = state->packs[*path];
    const auto dirty = std::exchange(file.dirty, {});
    if (state->fail_syncs) {
      if (syncs_kill()) ::raise(SIGKILL);
      errno = EIO;
      return -1;
    }
    for (const auto& [offset, bytes] : dirty) {
      file.durable.resize(std::max<std::size_t>(file.durable.size(), offset + bytes.size()));
      std::copy(bytes.begin(), bytes.end(), file.durable.begin() + static_cast<std::ptrdiff_t>(offset));
    }
  }
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

extern "C" int rename(const char* from, const char* to) noexcept {
  const auto result = static_cast<int>(::syscall(SYS_rename, from, to));
  auto state = disk().lock();
  if (auto moved = state->packs.extract(from); result == 0 && moved) {
    state->packs.erase(to);
    moved.key() = to;
    state->packs.insert(std::move(moved));
  }
  return result;
}

extern "C" int fsync(int fd) {
  struct stat status {};
  if (fail_directory_syncs() && ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

TEST_CASE("a pack store is a source", "[pack_store]") {
  const TempDirectory temp;
  for (const bool durable : {false, true}) {
    std::shared_ptr<PackStore> store =
        open_pack_store(temp.path() / (durable ? "settled" : "cache"), {.durable = durable});
    test::check_object_source([&] {
      return test::SourceUnderTest{store, [store](const Cid& cid, const Bytes& object) { store->put(cid, object); }};
    });
  }
}

TEST_CASE("objects that were put are there after closing and opening again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(150);
  const auto options = GENERATE(PackStoreOptions{}, PackStoreOptions{.durable = true, .pack_size = 100'000});
  {
    const auto store = open_pack_store(temp.path(), options);
    put_all(*store, all);
    put_all(*store, all);  // present: nothing happens
    CHECK(store->stats().objects == all.size());
    store->sync();
  }
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
  CHECK(store->all().size() == all.size());
  CHECK(store->stats().objects == all.size());
  CHECK(store->stats().bytes == all.size() * 5000);
  CHECK(store->contains(all[3].cid));
  CHECK_FALSE(store->contains(Sample(999).cid));
}

TEST_CASE("files and directories of a store are private, and a cache is tagged as one", "[pack_store]") {
  const TempDirectory temp;
  const mode_t old_mask = ::umask(0);
  { open_pack_store(temp.path() / "cache", {})->put(Sample(1).cid, Sample(1).object); }
  { open_pack_store(temp.path() / "settled", kSettledOptions); }
  ::umask(old_mask);
  CHECK(fs::exists(temp.path() / "cache" / "CACHEDIR.TAG"));
  CHECK_FALSE(fs::exists(temp.path() / "settled" / "CACHEDIR.TAG"));
  CHECK((fs::status(temp.path() / "cache").permissions() == fs::perms::owner_all));
  for (const auto& pack : packs_of(temp.path() / "cache")) {
    CHECK((fs::status(pack).permissions() == (fs::perms::owner_read | fs::perms::owner_write)));
  }
}

TEST_CASE("a killed process loses nothing that it put", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100);  // one batch in the index, the rest only in the pack
  const auto options = GENERATE(PackStoreOptions{}, PackStoreOptions{.durable = true});
  in_killed_process([&] {
    const auto store = open_pack_store(temp.path(), options);
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("half a record at the end of a pack is cut off", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  const auto options = GENERATE(PackStoreOptions{}, PackStoreOptions{.durable = true});
  in_killed_process([&] {
    const auto store = open_pack_store(temp.path(), options);
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  const auto pack = packs_of(temp.path()).at(0);
  const std::uint64_t record = 5000 + kRecordHeader;
  const std::uint64_t lost = GENERATE(1U, 4999U, 5001U, 5039U);
  fs::resize_file(pack, 10 * record - lost);
  for (int i = 0; i < 2; ++i) {
    const auto store = open_pack_store(temp.path(), options);
    CHECK(count_good(*store, all) == 9);
    CHECK(count_absent(*store, all) == 1);
  }
  if (!options.durable) CHECK(fs::file_size(pack) == 9 * record);
  const auto store = open_pack_store(temp.path(), options);
  put_all(*store, all);
  CHECK(count_good(*store, all) == 10);
}

TEST_CASE("a lost or damaged index is made anew from the packs", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(200);
  const auto options =
      GENERATE(PackStoreOptions{.pack_size = 200'000}, PackStoreOptions{.durable = true, .pack_size = 200'000});
  { put_all(*open_pack_store(temp.path(), options), all); }
  const fs::path index = temp.path() / "index.db";
  SECTION("removed") { fs::remove(index); }
  SECTION("truncated to nothing") { fs::resize_file(index, 0); }
  SECTION("cut in the middle") { fs::resize_file(index, 8192); }
  SECTION("replaced by text") { replace_file(index, as_bytes(std::string(5000, 'x'))); }
  SECTION("replaced by another database") {
    fs::remove(index);
    Database other(index, Durability::kRebuildable);
    other.execute("CREATE TABLE t (x); PRAGMA user_version=1");
  }
  SECTION("zeroed in the middle") {
    const auto fd = open_file(index, O_RDWR);
    write_all_at(fd.get(), Bytes(4096), 4096, index);
    write_all_at(fd.get(), Bytes(4096), 8192, index);
  }
  {
    const auto store = open_pack_store(temp.path(), options);
    count_good(*store, all);  // a cache may find the damage only now
    put_all(*store, all);
    CHECK(count_good(*store, all) == all.size());
  }
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("without the index's log the store is still usable", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(200);
  in_killed_process([&] {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  fs::remove(temp.path() / "index.db-wal");
  const auto store = open_pack_store(temp.path(), {});
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("bit flips in the index never give wrong bytes", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 600);
  { put_all(*open_pack_store(temp.path() / "good", {}), all); }
  const auto size = fs::file_size(temp.path() / "good" / "index.db");
  for (std::uint64_t round = 0; round < 40; ++round) {
    const fs::path copy = temp.path() / "copy";
    fs::remove_all(copy);
    fs::copy(temp.path() / "good", copy, fs::copy_options::recursive);
    damage(copy / "index.db", 100 + round * 7919 % (size - 100));
    const auto store = open_pack_store(copy, {});
    const auto is_good_or_absent = [&](const Sample& sample) {
      const auto object = ask(*store, sample.cid);
      return !object || *object == sample.object;
    };
    CHECK(std::all_of(all.begin(), all.end(), is_good_or_absent));
    store->sync();  // or its thread may be making a new index, and nothing is there meanwhile
    put_all(*store, all);
    store->sync();
    CHECK(count_good(*store, all) >= all.size() - 1);
  }
}

TEST_CASE("a damaged record header means absent, and the object can be put again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  { put_all(*open_pack_store(temp.path(), {}), all); }
  damage(packs_of(temp.path()).at(0), 3 * (5000 + kRecordHeader) + 20);
  const auto store = open_pack_store(temp.path(), {});
  CHECK_FALSE(ask(*store, all[3].cid).has_value());
  CHECK_FALSE(store->contains(all[3].cid));
  CHECK(count_good(*store, all) == 9);
  store->put(all[3].cid, all[3].object);
  CHECK(count_good(*store, all) == 10);
}

TEST_CASE("drop forgets a damaged object for good, and keeps a good one", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  { put_all(*open_pack_store(temp.path(), {}), all); }
  damage(packs_of(temp.path()).at(0), 3 * (5000 + kRecordHeader) + kRecordHeader + 100);
  {
    const auto store = open_pack_store(temp.path(), {});
    for (const Sample& sample : all) store->drop(sample.cid);
    CHECK(count_good(*store, all) == 9);
    CHECK_FALSE(ask(*store, all[3].cid).has_value());
  }
  fs::remove(temp.path() / "index.db");
  const auto store = open_pack_store(temp.path(), {});
  CHECK(count_good(*store, all) == 9);
  CHECK_FALSE(ask(*store, all[3].cid).has_value());
}

TEST_CASE("settled objects after a damaged one are found without the index", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(20);
  { put_all(*open_pack_store(temp.path(), kSettledOptions), all); }
  const auto pack = packs_of(temp.path()).at(0);
  SECTION("a header") { damage(pack, 3 * (5000 + kRecordHeader), 8); }
  SECTION("an object") { damage(pack, 3 * (5000 + kRecordHeader) + 1000); }
  fs::remove(temp.path() / "index.db");
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  CHECK(count_good(*store, all) == 19);
  CHECK_FALSE(ask(*store, all[3].cid).has_value());
}

TEST_CASE("a wrong row in a settled index is put right from the packs", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(20);
  { put_all(*open_pack_store(temp.path(), kSettledOptions), all); }
  { Database(temp.path() / "index.db", Durability::kFull).execute("UPDATE objects SET offset = offset + 40"); }
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  CHECK(count_good(*store, all) == 20);
}

TEST_CASE("a settled object whose row a power cut kept and whose bytes it took is stored anew", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100);  // one batch is in the index, which is always durable
  const auto store = open_pack_store(temp.path() / "store", kSettledOptions);
  put_all(*store, all);
  SECTION("all of them") { copy_after_power_cut(temp.path() / "store", temp.path() / "copy"); }
  SECTION("only the bytes behind a header") {
    fs::copy(temp.path() / "store", temp.path() / "copy", fs::copy_options::recursive);
    damage(packs_of(temp.path() / "copy").at(0), 3 * (5000 + kRecordHeader) + kRecordHeader, 5000);
  }
  const auto after = open_pack_store(temp.path() / "copy", kSettledOptions);
  put_all(*after, all);
  after->sync();
  CHECK(count_good(*after, all) == all.size());
}

TEST_CASE("settled objects that a killed process put are durable once they were put again and synced", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "store";
  const auto all = samples(100);
  in_killed_process([&] {
    const auto store = open_pack_store(directory, kSettledOptions);
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(directory, kSettledOptions);
  put_all(*store, all);
  store->sync();
  copy_after_power_cut(directory, temp.path() / "copy");
  CHECK(count_good(*open_pack_store(temp.path() / "copy", kSettledOptions), all) == all.size());
}

TEST_CASE("settled objects whose sync failed are written again by the next process before they are believed",
          "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "store";
  const auto before = samples(10);
  const auto lost = samples(100, 5000, 100);
  const auto put_and_be_killed = [&](bool sync) {
    in_killed_process([&, sync] {
      const auto store = open_pack_store(directory, kSettledOptions);
      put_all(*store, before);
      store->sync();
      put_all(*store, lost);
      if (!sync) ::raise(SIGKILL);
      disk().lock()->fail_syncs = true;
      syncs_kill() = true;  // before what follows a failed sync
      store->sync();
    });
  };
  SECTION("it was killed before the sync") { put_and_be_killed(false); }
  SECTION("it was killed when the sync failed") { put_and_be_killed(true); }
  SECTION("the index is lost, too") {
    put_and_be_killed(true);
    fs::remove(directory / "index.db");
  }
  std::size_t good = 0;
  {
    const auto store = open_pack_store(directory, kSettledOptions);
    good = count_good(*store, lost);
    CHECK(good == lost.size());  // the page cache has them still
  }
  // What this process did not write never reached the disk: so it must have written them all.
  copy_after_power_cut(directory, temp.path() / "copy");
  const auto after = open_pack_store(temp.path() / "copy", kSettledOptions);
  CHECK(count_good(*after, lost) == good);
}

TEST_CASE("a settled pack whose name could not be synced counts as no pack", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(32);
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  fail_directory_syncs() = true;
  CHECK((kind_thrown([&] { store->put(all[0].cid, all[0].object); }) == ErrorKind::kIo));
  CHECK(packs_of(temp.path()).empty());
  fail_directory_syncs() = false;
  CHECK_FALSE(store->contains(all[0].cid));
  put_all(*store, all);
  store->sync();
  CHECK(packs_of(temp.path()).size() == 1);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("settled objects are synced in a new pack when no further file can be opened", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(4, 100'000);
  const auto store = open_pack_store(temp.path(), {.durable = true, .pack_size = 150'000});
  store->put(all[0].cid, all[0].object);
  store->sync();
  store->put(all[1].cid, all[1].object);
  {
    const test::DescriptorLimit none(0);
    CHECK((kind_thrown([&] { store->put(all[2].cid, all[2].object); }) == ErrorKind::kIo));  // it needs a new pack
    store->sync();
  }
  CHECK_FALSE(store->contains(all[2].cid));
  {
    // One for the pack's file, none for its directory.
    const int next = ::dup(0);
    ::close(next);
    const test::DescriptorLimit one(static_cast<rlim_t>(next) + 1);
    store->put(all[2].cid, all[2].object);
    store->sync();
  }
  copy_after_power_cut(temp.path(), temp.path().string() + ".copy");
  const auto after = open_pack_store(temp.path().string() + ".copy", kSettledOptions);
  CHECK(count_good(*after, {all.begin(), all.begin() + 3}) == 3);
  fs::remove_all(temp.path().string() + ".copy");
}

TEST_CASE("a settled object whose copy cannot be read is stored again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(2, 100'000);
  const PackStoreOptions options{.durable = true, .pack_size = 50'000};
  { put_all(*open_pack_store(temp.path(), options), all); }
  const auto store = open_pack_store(temp.path(), options);
  const auto pack = packs_of(temp.path()).at(0);
  fs::remove(pack);
  fs::create_directory(pack);  // opening it for writing fails, as a bad disk would
  std::size_t refused = 0;
  for (const Sample& sample : all) {
    if (kind_thrown([&] { ask(*store, sample.cid); }) == ErrorKind::kIo) ++refused;
  }
  CHECK(refused == 1);
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("a damaged settled object is an error until it is put again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  { put_all(*open_pack_store(temp.path(), kSettledOptions), all); }
  const auto pack = packs_of(temp.path()).at(0);
  auto store = open_pack_store(temp.path(), kSettledOptions);
  const auto later = samples(10, 5000, 300);
  put_all(*store, later);  // into a second pack
  const std::uint64_t record = 3 * (5000 + kRecordHeader);
  SECTION("its header") { damage(pack, record, 8); }
  SECTION("its bytes, as a reader finds") {
    damage(pack, record + 1000);
    store->drop(all[3].cid);
  }
  CHECK((kind_thrown([&] { ask(*store, all[3].cid); }) == ErrorKind::kIo));
  CHECK((kind_thrown([&] { ask(*store, all[3].cid); }) == ErrorKind::kIo));
  CHECK_FALSE(store->contains(all[3].cid));
  store->put(all[3].cid, all[3].object);
  store->sync();
  const auto newest = samples(10, 5000, 400);
  put_all(*store, newest);
  store->sync();
  for (int opened = 0; opened < 2; ++opened) {
    CHECK(count_good(*store, all) == all.size());
    CHECK(count_good(*store, later) == later.size());
    CHECK(count_good(*store, newest) == newest.size());
    store.reset();
    store = open_pack_store(temp.path(), kSettledOptions);
  }
}

TEST_CASE("objects that a failed sync may have lost are not found again in the packs", "[pack_store]") {
  const TempDirectory temp;
  const auto before = samples(10);
  const auto lost = samples(100, 5000, 100);
  auto store = open_pack_store(temp.path(), kSettledOptions);
  put_all(*store, before);
  store->sync();
  put_all(*store, lost);
  CHECK(store->failed_syncs() == 0);
  disk().lock()->fail_syncs = true;
  CHECK((kind_thrown([&] { store->sync(); }) == ErrorKind::kIo));
  disk().lock()->fail_syncs = false;
  CHECK(store->failed_syncs() == 1);
  CHECK(count_absent(*store, lost) == lost.size());
  SECTION("now") {}
  SECTION("by the next process") {
    store.reset();
    store = open_pack_store(temp.path(), kSettledOptions);
  }
  SECTION("by one that lost the index, too") {
    store.reset();
    fs::remove(temp.path() / "index.db");
    store = open_pack_store(temp.path(), kSettledOptions);
  }
  CHECK(count_good(*store, before) == before.size());
  CHECK(count_absent(*store, lost) == lost.size());
  put_all(*store, lost);
  store->sync();
  CHECK(count_good(*store, lost) == lost.size());
}

TEST_CASE("a fetch that meets a removal does not make the settled index suspicious", "[pack_store]") {
  const TempDirectory temp;
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  const auto all = samples(3);
  put_all(*store, all);
  before_next_read() = [&] { store->remove(std::span(&all[1].cid, 1)); };
  CHECK_FALSE(ask(*store, all[1].cid).has_value());
  CHECK_FALSE(fs::exists(temp.path() / "index.db.damaged"));
  CHECK(count_good(*store, all) == 2);
}

TEST_CASE("a pack that disappears takes only its own objects with it", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100);
  { put_all(*open_pack_store(temp.path(), {.pack_size = 100'000}), all); }
  const auto packs = packs_of(temp.path());
  REQUIRE(packs.size() >= 4);
  std::shared_ptr<PackStore> store;
  SECTION("before opening") {
    fs::remove(packs[1]);
    store = open_pack_store(temp.path(), {});
  }
  SECTION("while open") {
    store = open_pack_store(temp.path(), {});
    fs::remove(packs[1]);
  }
  const auto good = count_good(*store, all);
  CHECK(good < 100);
  CHECK(good >= 70);
  put_all(*store, all);
  CHECK(count_good(*store, all) == 100);
}

TEST_CASE("removed objects are gone, and their space is free", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(40, 100'000);
  const auto options =
      GENERATE(PackStoreOptions{.pack_size = 1'000'000}, PackStoreOptions{.durable = true, .pack_size = 1'000'000});
  auto store = open_pack_store(temp.path(), options);
  put_all(*store, all);
  const std::uint64_t before = blocks_of(temp.path());
  std::vector<Cid> odd;
  std::vector<Cid> even;
  for (std::size_t i = 0; i < all.size(); ++i) (i % 2 == 0 ? even : odd).push_back(all[i].cid);
  store->remove(odd);
  CHECK(store->stats().objects == 20);
  CHECK(count_good(*store, all) == 20);
  CHECK(blocks_of(temp.path()) < before * 6 / 10);
  SECTION("also for an index made anew") {
    store.reset();
    fs::remove(temp.path() / "index.db");
    store = open_pack_store(temp.path(), options);
    CHECK(count_good(*store, all) == 20);
    CHECK(store->all().size() == 20);
  }
  store->remove(even);
  CHECK(store->stats().objects == 0);
  CHECK(packs_of(temp.path()).size() <= 1);  // at most the one that is appended to
  store.reset();
  open_pack_store(temp.path(), options);
  CHECK(packs_of(temp.path()).empty());
}

TEST_CASE("above its limit a cache forgets what was not used for longest", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 10'000);
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 1'000'000, .pack_size = 200'000});
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, {all.begin(), all.begin() + 20}) == 20);  // used now
  const auto more = samples(30, 10'000, /*first_seed=*/1000);
  put_all(*store, more);
  store->sync();
  CHECK(store->stats().bytes <= 1'000'000);
  CHECK(store->stats().evicted >= 30);
  CHECK(count_good(*store, {all.begin(), all.begin() + 20}) == 20);
  CHECK(count_good(*store, more) == 30);
  CHECK(count_good(*store, {all.begin() + 20, all.begin() + 50}) == 0);
  CHECK(count_good(*store, {all.begin() + 64, all.end()}) == 36);
  CHECK(blocks_of(temp.path()) < 1'200'000);
}

TEST_CASE("a cache that does not keep the order of eviction yet is taken over as it is", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 10'000);
  {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
  }
  { Database(temp.path() / "index.db", Durability::kRebuildable).execute("DROP INDEX by_access"); }
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 500'000});
  store->sync();
  CHECK(store->stats().bytes <= 500'000);
  CHECK(count_good(*store, all) == store->stats().objects);
  CHECK(count_good(*store, {all.begin() + 64, all.end()}) == 36);  // what was put last
  Database index(temp.path() / "index.db", Durability::kRebuildable);
  Statement plan(index.get(), "EXPLAIN QUERY PLAN SELECT cid FROM objects ORDER BY accessed");
  auto row = plan.use();
  REQUIRE(row.next());
  CHECK(row.text(3).find("by_access") != std::string_view::npos);
}

TEST_CASE("a cache is read while another process writes its index, and the times of use are kept", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(1500, 100);
  {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
  }
  {
    const auto store = open_pack_store(temp.path(), {});
    Database other(temp.path() / "index.db", Durability::kRebuildable);
    const Transaction transaction(other);
    CHECK(count_good(*store, all) == all.size());
  }
  Database index(temp.path() / "index.db", Durability::kRebuildable);
  Statement count(index.get(), "SELECT count(DISTINCT accessed) FROM objects");
  auto row = count.use();
  REQUIRE(row.next());
  CHECK(row.integer(0) == 1500);
}

TEST_CASE("a cache whose limit became much lower keeps what was put last", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(320, 100'000);
  {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
  }
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 7'000'000});
  store->sync();
  const auto stats = store->stats();
  CHECK(stats.bytes <= 7'000'000);
  CHECK(stats.bytes >= 6'000'000);
  CHECK(stats.evicted == 320 - stats.objects);
  CHECK(count_good(*store, {all.begin() + 260, all.end()}) == 60);
}

TEST_CASE("the amount to evict follows from the limit and from the free space of the disk", "[pack_store]") {
  CHECK(bytes_to_evict(1000, {}, 0, 0) == 0);
  CHECK(bytes_to_evict(1600, {}, 1600, 0) == 0);
  CHECK(bytes_to_evict(1700, {}, 1600, 0) == 200);  // and a sixteenth of the limit
  CHECK(bytes_to_evict(1000, 160, 0, 160) == 0);
  CHECK(bytes_to_evict(1000, 100, 0, 160) == 70);
  CHECK(bytes_to_evict(1700, 100, 1600, 160) == 200);
  CHECK(bytes_to_evict(50, 0, 0, 160) == 50);  // never more than there is
}

TEST_CASE("a cache makes room when the file system is full, a settled store never does", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(20);
  const std::uint64_t more_than_any_disk = std::uint64_t{1} << 60U;
  const auto cache = open_pack_store(temp.path() / "cache", {.min_free_bytes = more_than_any_disk});
  put_all(*cache, all);
  cache->sync();
  CHECK(cache->stats().objects == 0);
  const auto settled = open_pack_store(temp.path() / "settled",
                                       {.durable = true, .limit_bytes = 1, .min_free_bytes = more_than_any_disk});
  put_all(*settled, all);
  settled->sync();
  CHECK(settled->stats().objects == 20);
}

TEST_CASE("a cache gives room back on demand, the least recently used first", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 100'000);
  const auto store = open_pack_cache(temp.path(), {.pack_size = 1'000'000});
  put_all(*store, all);
  store->sync();
  const std::uint64_t before = blocks_of(temp.path());
  CHECK(store->make_room(0) == 0);
  CHECK(store->make_room(2'950'000) == 3'000'000);
  CHECK(blocks_of(temp.path()) < before - 2'500'000);
  CHECK(count_absent(*store, {all.begin(), all.begin() + 30}) == 30);
  CHECK(count_good(*store, {all.begin() + 30, all.end()}) == 70);
  CHECK(store->make_room(100'000'000) == 7'000'000);
  CHECK(store->make_room(1) == 0);
}

TEST_CASE("a cache gives room back while its index cannot be written", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(50, 100'000);
  const auto store = open_pack_cache(temp.path(), {.pack_size = 1'000'000});
  put_all(*store, all);
  store->sync();
  const std::uint64_t before = blocks_of(temp.path());
  {
    Database other(temp.path() / "index.db", Durability::kRebuildable);
    const Transaction transaction(other);
    CHECK(store->make_room(3'000'000) == 3'000'000);
    CHECK(blocks_of(temp.path()) < before - 2'500'000);
    CHECK(count_good(*store, all) == 20);
    CHECK(store->stats().objects == 20);
  }
  store->sync();
  CHECK(count_good(*open_pack_cache(temp.path(), {}), all) == 20);
}

TEST_CASE("pinned objects are not evicted by any process while their owner exists", "[pack_store]") {
  const TempDirectory temp;
  const fs::path owner = temp.path() / "owner";
  replace_file(owner, as_bytes("here"));
  const auto all = samples(50, 100'000);
  const fs::path directory = temp.path() / "cache";
  KilledProcess other([&] {
    const auto cache = open_pack_cache(directory, {.limit_bytes = 1});
    cache->sync();
    if (cache->make_room(100'000'000) != 0 || cache->stats().objects != 10) ::_exit(1);
    ::raise(SIGKILL);
  });
  const auto store = open_pack_cache(directory, {});
  put_all(*store, all);
  store->sync();
  std::vector<Cid> pinned;
  for (std::size_t i = 0; i < 10; ++i) pinned.push_back(all[i].cid);
  CachePins pins(directory);
  pins.pin("session", owner, pinned);
  CHECK(store->make_room(100'000'000) == 4'000'000);
  other.run();
  CHECK(count_good(*store, {all.begin(), all.begin() + 10}) == 10);
  SECTION("another list of the same name takes its place") {
    pins.pin("session", owner, std::span(pinned).first(4));
    CHECK(store->make_room(100'000'000) == 600'000);
  }
  SECTION("the owner is gone") {
    fs::remove(owner);
    CHECK(store->make_room(100'000'000) == 1'000'000);
    CHECK(fs::is_empty(directory / "pins"));
  }
  SECTION("a list that is none pins nothing") {
    fs::remove(directory / "pins" / "session");
    for (const std::string text : {"", "/", "relative\n", "/no end of line"}) {
      replace_file(directory / "pins" / "x", as_bytes(text));
    }
    CHECK(store->make_room(100'000'000) == 1'000'000);
  }
}

TEST_CASE("a cache that holds only what is pinned takes nothing more from a disk with little space", "[pack_store]") {
  const TempDirectory temp;
  const fs::path owner = temp.path() / "owner";
  replace_file(owner, as_bytes("here"));
  const auto pinned = samples(10);
  const auto more = samples(200, 5000, 500);
  const fs::path directory = temp.path() / "cache";
  { put_all(*open_pack_store(directory, {}), pinned); }
  std::vector<Cid> cids;
  for (const Sample& sample : pinned) cids.push_back(sample.cid);
  CachePins(directory).pin("session", owner, cids);
  const auto store = open_pack_store(directory, {.min_free_bytes = std::uint64_t{1} << 60U});
  store->sync();
  put_all(*store, more);
  CHECK(count_absent(*store, more) == more.size());
  CHECK(count_good(*store, pinned) == pinned.size());
}

TEST_CASE("a settled store on a full disk asks for room and writes again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(3);
  std::uint64_t can_give = 1;
  int asked = 0;
  PackStoreOptions options{.durable = true};
  options.make_room = [&](std::uint64_t) {
    ++asked;
    return can_give;
  };
  const auto store = open_pack_store(temp.path(), options);
  disk().lock()->full_writes = 2;  // pwritev, and the pwrite that finds out why
  store->put(all[0].cid, all[0].object);
  CHECK(asked == 1);
  can_give = 0;
  disk().lock()->full_writes = 2;
  CHECK((kind_thrown([&] { store->put(all[1].cid, all[1].object); }) == ErrorKind::kIo));
  CHECK(asked == 2);
  disk().lock()->full_writes = 0;
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("several processes use one cache", "[pack_store]") {
  const TempDirectory temp;
  const auto mine = samples(80);
  const auto theirs = samples(80, 5000, /*first_seed=*/500);
  KilledProcess other([&] {
    const auto child = open_pack_store(temp.path(), {.pack_size = 100'000});
    if (count_good(*child, mine) != mine.size()) ::_exit(1);
    put_all(*child, theirs);
    child->sync();
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(temp.path(), {.pack_size = 100'000});
  put_all(*store, mine);
  store->sync();
  other.run();
  CHECK(count_good(*store, theirs) == theirs.size());
  CHECK(count_good(*store, mine) == mine.size());
}

TEST_CASE("opening, evicting and killed processes never touch a pack that another one writes", "[pack_store]") {
  const TempDirectory temp;
  const auto mine = samples(30);
  KilledProcess other([&] {
    open_pack_store(temp.path(), {.limit_bytes = 1})->sync();
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(temp.path(), {});
  put_all(*store, mine);  // fewer than a batch: only memory knows them
  { open_pack_store(temp.path(), {.limit_bytes = 1})->sync(); }
  other.run();
  CHECK(count_good(*store, mine) == mine.size());
  store->sync();
  const auto second = open_pack_store(temp.path(), {});
  CHECK(count_good(*second, mine) == mine.size());
}

TEST_CASE("an index that another process made anew is taken over", "[pack_store]") {
  const TempDirectory temp;
  const auto before = samples(70);
  const auto after = samples(200, 5000, /*first_seed=*/500);
  const auto store = open_pack_store(temp.path(), {});
  put_all(*store, before);
  store->sync();
  fs::remove(temp.path() / "index.db");
  fs::remove(temp.path() / "index.db-wal");
  fs::remove(temp.path() / "index.db-shm");
  { CHECK(count_good(*open_pack_store(temp.path(), {}), before) == before.size()); }
  put_all(*store, after);  // some into the old index, and none while the new one is being opened
  store->sync();
  put_all(*store, after);
  store->sync();
  const auto second = open_pack_store(temp.path(), {});
  CHECK(count_good(*second, before) == before.size());
  CHECK(count_good(*second, after) == after.size());
}

TEST_CASE("a process that is stopped while it repairs the index costs the others the cache, no more", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(3);
  PackStoreOptions options;
  options.index_wait = std::chrono::milliseconds(50);
  put_all(*open_pack_store(temp.path(), options), all);
  const auto running = open_pack_store(temp.path(), options);
  std::optional<UniqueFd> stopped(open_file(temp.path() / "lock", O_RDWR));
  REQUIRE(::flock(stopped->get(), LOCK_EX) == 0);
  const auto opened = open_pack_store(temp.path(), options);
  CHECK(count_absent(*opened, all) == 3);
  put_all(*opened, all);
  opened->sync();
  CHECK(count_absent(*opened, all) == 3);

  CHECK(count_good(*running, all) == 3);  // it has no need of the lock

  stopped.reset();
  opened->sync();
  CHECK(count_good(*opened, all) == 3);
}

TEST_CASE("settled objects belong to one process", "[pack_store]") {
  const TempDirectory temp;
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  CHECK((kind_thrown([&] { open_pack_store(temp.path(), kSettledOptions); }) == ErrorKind::kVm));
}

TEST_CASE("the rest of a deleted cache becomes a cache again, and settled objects never do", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  const auto options = GENERATE(PackStoreOptions{}, kSettledOptions);
  put_all(*open_pack_store(temp.path(), options), all);
  // As rm -r beside a process that goes on with its packs and its index.
  fs::remove(temp.path() / "format");
  if (options.durable) {
    CHECK((kind_thrown([&] { open_pack_store(temp.path(), options); }) == ErrorKind::kUnsupported));
    return;
  }
  const auto store = open_pack_store(temp.path(), options);
  CHECK(fs::exists(temp.path() / "format"));
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("a directory that is not ours, or of another version, is refused and not changed", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "store";
  const fs::path format = directory / "format";
  make_private_directory(directory);
  const auto refused = [&] { return kind_thrown([&] { open_pack_store(directory, {}); }) == ErrorKind::kUnsupported; };
  SECTION("somebody's files") {
    replace_file(directory / "thesis.tex", as_bytes("words"));
    CHECK(refused());
    CHECK_FALSE(fs::exists(format));
  }
  SECTION("a newer format") {
    replace_file(format, as_bytes("{\"magic\":\"isr-packs\",\"version\":2,\"use\":\"cache\"}\n"));
    CHECK(refused());
    CHECK(read_file(format, 4096).size() > 10);
  }
  SECTION("no format of ours") {
    for (const std::string text : {"", "{}", "[]", "1", "null", "{\"magic\":7}", "{\"magic\":\"isr-packs\"}",
                                   "\xff\xfe", "{\"magic\":\"isr-packs\",\"version\":\"1\",\"use\":\"cache\"}"}) {
      replace_file(format, as_bytes(text));
      CHECK(refused());
    }
    replace_file(format, Bytes(1'000'000, '['));
    CHECK(refused());
  }
  SECTION("settled objects opened as a cache") {
    { open_pack_store(directory, kSettledOptions); }
    CHECK(refused());
  }
  SECTION("a newer index") {
    { open_pack_store(directory, {}); }
    { Database(directory / "index.db", Durability::kRebuildable).set_user_version(2); }
    CHECK(refused());
  }
  SECTION("a symlink") {
    fs::create_directory(temp.path() / "elsewhere");
    fs::create_directory_symlink(temp.path() / "elsewhere", temp.path() / "link");
    CHECK((kind_thrown([&] { open_pack_store(temp.path() / "link", {}); }) == ErrorKind::kDenied));
    CHECK(fs::is_empty(temp.path() / "elsewhere"));
  }
}

TEST_CASE("a cache that is deleted while in use is begun anew", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "cache";
  const auto store = open_pack_store(directory, {});
  const auto before = samples(10);
  put_all(*store, before);
  fs::remove_all(directory);
  count_good(*store, before);  // whatever it answers, it goes on
  const auto after = samples(200, 5000, /*first_seed=*/500);
  put_all(*store, after);  // some are lost until it is noticed
  store->sync();
  put_all(*store, after);
  CHECK(count_good(*store, after) == after.size());
  CHECK(fs::exists(directory / "format"));
}

TEST_CASE("nothing is written through a symlink put in the place of the directory", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "cache";
  const fs::path elsewhere = temp.path() / "elsewhere";
  fs::create_directory(elsewhere);
  const auto store = open_pack_store(directory, {});
  put_all(*store, samples(10));
  fs::rename(directory, temp.path() / "moved");
  fs::create_directory_symlink(elsewhere, directory);
  put_all(*store, samples(200, 5000, 500));
  store->sync();
  CHECK(fs::is_empty(elsewhere));
  CHECK_FALSE(ask(*store, Sample(9999).cid).has_value());
}

TEST_CASE("a deleted cache is not begun anew through a symlink in the place of the folder above", "[pack_store]") {
  const TempDirectory temp;
  const fs::path above = temp.path() / "isr";
  const fs::path elsewhere = temp.path() / "elsewhere";
  make_private_directory(above);
  make_private_directory(elsewhere);
  const auto store = open_pack_store(above / "cache", {});
  put_all(*store, samples(10));
  fs::remove_all(above);
  fs::create_directory_symlink(elsewhere, above);
  put_all(*store, samples(200, 5000, 500));
  store->sync();
  CHECK(fs::is_empty(elsewhere));
}

TEST_CASE("settled objects whose directory is deleted are an error, not a fresh start", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "settled";
  const auto store = open_pack_store(directory, kSettledOptions);
  put_all(*store, samples(10));
  fs::remove_all(directory);
  CHECK((kind_thrown([&] {
           put_all(*store, samples(200, 5000, 500));
           store->sync();
         }) == ErrorKind::kIo));
}

TEST_CASE("without space settled objects are refused and a cache keeps nothing more; what was there stays good",
          "[pack_store]") {
  const TempDirectory temp;
  const bool durable = GENERATE(false, true);
  const PackStoreOptions options{.durable = durable};
  const auto all = samples(50);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    try {
      const auto store = open_pack_store(temp.path(), options);
      put_all(*store, {all.begin(), all.begin() + 20});
      store->sync();
      const rlimit limit{20 * (5000 + kRecordHeader) + 777, RLIM_INFINITY};
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
      const auto kind = kind_thrown([&] { store->put(all[20].cid, all[20].object); });
      if (kind != (durable ? std::optional(ErrorKind::kIo) : std::nullopt)) ::_exit(3);
      if (ask(*store, all[20].cid)) ::_exit(4);
      const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
      if (::setrlimit(RLIMIT_FSIZE, &none) != 0) ::_exit(5);
      put_all(*store, all);
      if (count_good(*store, all) != all.size()) ::_exit(6);
    } catch (...) {
      ::_exit(7);
    }
    ::raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CAPTURE(status);
  CHECK(WIFSIGNALED(status));
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("many threads put and fetch at once", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(200, 3000);
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 400'000, .pack_size = 50'000});
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < 400; ++i) {
          const Sample& sample = all[(i * (2 * t + 1)) % all.size()];
          store->put(sample.cid, sample.object);
          const auto got = ask(*store, sample.cid);
          if (got && got != sample.object) ++wrong;
          if (i % 50 == 0) store->drop(sample.cid);
        }
      });
    }
  }
  CHECK(wrong == 0);
  store->sync();
  CHECK(store->stats().bytes <= 400'000);
}

TEST_CASE("an object that cannot be one is a mistake of the caller", "[pack_store]") {
  const TempDirectory temp;
  const auto store = open_pack_store(temp.path(), {});
  CHECK((kind_thrown([&] { store->put(Cid{}, {}); }) == ErrorKind::kBug));
  const Bytes huge(kMaxObjectSize + 1);
  CHECK((kind_thrown([&] { store->put(cid_of(huge), huge); }) == ErrorKind::kBug));
}

}  // namespace isr
