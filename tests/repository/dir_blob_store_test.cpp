#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <fstream>
#include <thread>

#include "base/clock.h"
#include "base/crypto.h"
#include "base/file.h"
#include "repository/blob_store_suite.h"

namespace isr {
namespace {

using test::kind_thrown_by;
using test::text_bytes;

/// Records the syncs of files and directories below a directory, in order, while it lives. One at a time.
class Syncs {
 public:
  explicit Syncs(const fs::path& directory) : directory_(fs::canonical(directory)) { active = this; }
  ~Syncs() { active = nullptr; }
  Syncs(const Syncs&) = delete;
  Syncs& operator=(const Syncs&) = delete;

  void fail_next(const std::string& name) { failing_ = name; }
  void slow_down(std::chrono::milliseconds by) { delay_ = by; }
  /// Where the directory `name` stands among what was synced, after `from`; synced.size(): nowhere.
  std::size_t position_of(const std::string& name, std::size_t from = 0) const {
    const auto first = synced_.begin() + static_cast<std::ptrdiff_t>(from);
    return static_cast<std::size_t>(std::find(first, synced_.end(), name) - synced_.begin());
  }
  std::size_t size() const { return synced_.size(); }

  /// False: it is to fail.
  static bool note(int fd) {
    if (active == nullptr) return true;
    std::this_thread::sleep_for(active->delay_);
    const fs::path path = fs::read_symlink("/proc/self/fd/" + std::to_string(fd));
    const std::string name = path.lexically_relative(active->directory_).string();
    if (name == active->failing_) {
      active->failing_.clear();
      return false;
    }
    active->synced_.push_back(name);
    return true;
  }

 private:
  static inline Syncs* active = nullptr;
  fs::path directory_;
  std::vector<std::string> synced_;
  std::string failing_;
  std::chrono::milliseconds delay_{0};
};

}  // namespace

// In the place of the C library's.
extern "C" int fsync(int fd) {
  if (Syncs::note(fd)) return static_cast<int>(::syscall(SYS_fsync, fd));
  errno = EIO;
  return -1;
}
extern "C" int fdatasync(int fd) { return ::fsync(fd); }

namespace {

/// How far this host's clock is ahead.
std::atomic<std::time_t> seconds_ahead{0};

struct ClockAhead {
  explicit ClockAhead(std::chrono::seconds by) { seconds_ahead = by.count(); }
  ~ClockAhead() { seconds_ahead = 0; }
  ClockAhead(const ClockAhead&) = delete;
  ClockAhead& operator=(const ClockAhead&) = delete;
};

}  // namespace

/// In the place of the C library's.
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const auto failed = static_cast<int>(::syscall(SYS_clock_gettime, clock, time));
  if (failed == 0 && clock == CLOCK_REALTIME) time->tv_sec += seconds_ahead;
  return failed;
}

namespace {

TEST_CASE("the age of a lock in a directory comes from the file server's clock", "[repository]") {
  const TempDirectory directory;
  const ClockAhead ahead(std::chrono::hours(5));
  REQUIRE(wall_now() - std::chrono::file_clock::to_sys(fs::last_write_time(directory.path())) > std::chrono::hours(4));
  const auto store = make_directory_store(directory.path());
  store->put_new("parcels/p/locks/1", text_bytes("held"));
  const auto lock = store->get("parcels/p/locks/1");
  REQUIRE(lock.has_value());
  REQUIRE(lock->age.has_value());
  CHECK(*lock->age < std::chrono::seconds(60));
}

TEST_CASE("an object that stat() found is durable before the head that needs it", "[repository]") {
  const TempDirectory directory;
  const std::string head = "parcels/p/heads/1";
  fs::create_directories(directory.path() / "objects/ab");
  std::ofstream(directory.path() / "objects/ab/abc") << "x";  // its writer was killed before it came to the sync
  const auto store = make_directory_store(directory.path());
  REQUIRE(store->stat("objects/ab/abc") == 1);
  Syncs syncs(directory.path());
  SECTION("the disk syncs") {}
  SECTION("the disk does not, once") {
    syncs.fail_next("objects/ab");
    CHECK(kind_thrown_by([&] { store->put_new(head, text_bytes("h")); }) == ErrorKind::kIo);
    CHECK_FALSE(store->stat(head));
  }
  CHECK(store->put_new(head, text_bytes("h")) == PutResult::kCreated);
  const std::size_t made = syncs.position_of("parcels/p/heads");
  CHECK(made < syncs.size());
  CHECK(syncs.position_of("objects/ab") < made);
  CHECK(syncs.position_of("objects") < made);
  const std::size_t before = syncs.size();
  store->put_new("parcels/p/heads/2", text_bytes("h"));
  CHECK(syncs.position_of("objects/ab", before) == syncs.size());  // once is enough
}

TEST_CASE("an emptied directory of found objects does not make later puts fail", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  store->put_new("objects/ab/abc", text_bytes("x"));
  REQUIRE(store->stat("objects/ab/abc") == 1);
  fs::remove_all(directory.path() / "objects");
  CHECK(store->put_new("parcels/p/heads/1", text_bytes("h")) == PutResult::kCreated);
  CHECK(store->put_new("objects/ab/abc", text_bytes("y")) == PutResult::kCreated);
}

TEST_CASE("a slow disk is asked for its clock once, and not at all for objects", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  store->put_new("objects/ab/abc", text_bytes("x"));
  store->put_new("locks/1", text_bytes("x"));
  Syncs syncs(directory.path());
  syncs.slow_down(std::chrono::milliseconds(2500));
  for (int i = 0; i < 3; ++i) CHECK_FALSE(store->get("objects/ab/abc")->age);
  CHECK(syncs.size() == 0);
  for (int i = 0; i < 3; ++i) CHECK(store->get("locks/1")->age < std::chrono::seconds(60));
  CHECK(syncs.size() == 1);
}

TEST_CASE("a directory keeps the contract of a blob store", "[repository]") {
  const TempDirectory directory;
  test::run_blob_store_suite([&] { return make_directory_store(directory.path()); });
}

TEST_CASE("an absent directory is not taken for an empty store", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path() / "disk");
  CHECK(kind_thrown_by([&] { store->get("isr-repository"); }) == ErrorKind::kNotFound);
  CHECK(kind_thrown_by([&] { store->stat("objects/ab/abc"); }) == ErrorKind::kNotFound);
  CHECK(kind_thrown_by([&] { store->list("objects/"); }) == ErrorKind::kNotFound);
  CHECK(kind_thrown_by([&] { store->put_new("a/b", text_bytes("x")); }) == ErrorKind::kNotFound);
  CHECK(kind_thrown_by([&] { store->remove("a/b"); }) == ErrorKind::kNotFound);
  CHECK_FALSE(fs::exists(directory.path() / "disk"));

  SECTION("and works once it is mounted") {
    fs::create_directory(directory.path() / "disk");
    CHECK(store->put_new("a/b", text_bytes("x")) == PutResult::kCreated);
  }
}

TEST_CASE("a directory that cannot be entered is an Error", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  fs::create_symlink("a", directory.path() / "a");  // leads to itself
  CHECK(kind_thrown_by([&] { store->put_new("a/b", text_bytes("x")); }) == ErrorKind::kIo);
}

TEST_CASE("temporary and foreign files are invisible", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  store->put_new("a/b", text_bytes("x"));
  std::ofstream(directory.path() / "a" / ".tmp-0123") << "half";
  std::ofstream(directory.path() / "a" / "b (conflicted copy)") << "x";
  std::ofstream(directory.path() / "a" / std::string(201, 'b')) << "x";
  fs::create_directory(directory.path() / "a" / "new folder");
  std::ofstream(directory.path() / "a" / "new folder" / "b") << "x";
  fs::create_symlink("/etc/passwd", directory.path() / "a" / "link");
  REQUIRE(::mkfifo((directory.path() / "a" / "fifo").c_str(), 0600) == 0);
  fs::create_directory(directory.path() / "a" / "directory");
  CHECK((store->list("a/") == std::vector<std::string>{"a/b"}));
  CHECK_FALSE(store->get("a/fifo").has_value());
  CHECK_FALSE(store->get("a/directory").has_value());
  CHECK_FALSE(store->get("a/b/c").has_value());
  CHECK_THROWS_AS(store->get("a/link"), Error);
  CHECK_FALSE(store->stat("a/link").has_value());
}

TEST_CASE("a blob above the limit is damage, and is not read", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  store->put_new("a/b", text_bytes("x"));
  fs::resize_file(directory.path() / "a" / "b", std::uintmax_t{1} << 40U);
  CHECK(kind_thrown_by([&] { store->get("a/b"); }) == ErrorKind::kCorrupt);
  CHECK(kind_thrown_by([&] { store->put_new("a/c", Bytes(kMaxBlobSize + 1)); }) == ErrorKind::kUsage);
}

TEST_CASE("a store continues to work when its directories were emptied by another program", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  store->put_new("objects/ab/abc", text_bytes("x"));
  fs::remove_all(directory.path() / "objects");
  CHECK(store->put_new("objects/ab/abc", text_bytes("y")) == PutResult::kCreated);
}

TEST_CASE("files in a store can be read by those who may read its directory", "[repository]") {
  const TempDirectory directory;
  const auto mode_of = [](const fs::path& path) {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_mode & 0777U;
  };
  SECTION("private stays private") {
    REQUIRE(::chmod(directory.path().c_str(), 0700) == 0);
    make_directory_store(directory.path())->put_new("a/b", text_bytes("x"));
    CHECK(mode_of(directory.path() / "a") == 0700);
    CHECK(mode_of(directory.path() / "a" / "b") == 0600);
  }
  SECTION("a directory that a web server may read") {
    REQUIRE(::chmod(directory.path().c_str(), 0755) == 0);
    make_directory_store(directory.path())->put_new("a/b", text_bytes("x"));
    CHECK(mode_of(directory.path() / "a") == 0755);
    CHECK(mode_of(directory.path() / "a" / "b") == 0644);
  }
}

TEST_CASE("a directory without write permission is a read-only store", "[repository]") {
  if (::geteuid() == 0) return;  // root may write anywhere
  const TempDirectory directory;
  fs::permissions(directory.path(), fs::perms::owner_read | fs::perms::owner_exec);
  const auto store = make_directory_store(directory.path());
  CHECK_FALSE(store->writable());
  CHECK(kind_thrown_by([&] { store->put_new("a/b", text_bytes("x")); }) == ErrorKind::kUnsupported);
  fs::permissions(directory.path(), fs::perms::owner_all);
}

TEST_CASE("the name of an object gives its cid, and other names give none", "[repository]") {
  const Cid cid = cid_of(text_bytes("x"));
  const std::string name = object_name(cid);
  CHECK(name.size() == 75);
  CHECK(cid_from_object_name(name) == cid);
  CHECK_FALSE(cid_from_object_name("").has_value());
  CHECK_FALSE(cid_from_object_name(name + "0").has_value());
  CHECK_FALSE(cid_from_object_name("objects/zz/" + name.substr(11)).has_value());
  CHECK_FALSE(cid_from_object_name("Objects" + name.substr(7)).has_value());
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(::toupper(c));
  CHECK_FALSE(cid_from_object_name(upper).has_value());
}

}  // namespace
}  // namespace isr
