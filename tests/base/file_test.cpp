#include "base/file.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <latch>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/thread_pool.h"
#include "support/bytes.h"
#include "support/descriptor_limit.h"
#include "support/error_kind.h"

using namespace isr;

namespace {

constexpr std::size_t kLimit = 1 << 20;

unsigned mode_of(const fs::path& path) {
  struct stat status {};
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status.st_mode & 07777U;
}

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

class Umask {
 public:
  explicit Umask(mode_t mask) : old_(::umask(mask)) {}
  ~Umask() { ::umask(old_); }
  Umask(const Umask&) = delete;
  Umask& operator=(const Umask&) = delete;

 private:
  mode_t old_;
};

/// Makes a system call fail for the calling thread for good. False where seccomp
/// is not to be had.
bool forbid(std::uint32_t call, std::uint32_t errno_value) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno_value),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/// Runs before each fsync() of a regular file by the calling thread.
thread_local std::function<void()> before_sync;

/// As FAT does.
/// O_TMPFILE alone: as on NFS.
bool forbid_unnamed_files(std::uint32_t errno_value) {
  constexpr std::uint32_t kUnnamed = O_TMPFILE & ~O_DIRECTORY;
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_openat, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kUnnamed, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno_value),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

bool forbid_hard_links() { return forbid(__NR_linkat, EPERM); }
/// As file systems do that cannot rename without replacing.
bool forbid_exclusive_rename() { return forbid(__NR_renameat2, EINVAL); }

}  // namespace

/// In the place of the C library's.
extern "C" int fsync(int fd) {
  struct stat status {};
  if (before_sync && ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) before_sync();
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

TEST_CASE("a file is read and written at any offset", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x";
  const UniqueFd fd = open_file(path, O_RDWR | O_CREAT);
  write_all_at(fd.get(), as_bytes("world"), 6, path);
  write_all_at(fd.get(), as_bytes("hello "), 0, path);
  sync_file(fd.get(), path);
  CHECK(file_size(fd.get(), path) == 11);
  Bytes out(5);
  read_exact_at(fd.get(), out, 6, path);
  CHECK(as_text(out) == "world");
  CHECK(read_at(fd.get(), out, 9, path) == 2);
  CHECK(read_at(fd.get(), out, 11, path) == 0);
  CHECK(read_at(fd.get(), out, 1'000'000, path) == 0);
  CHECK_THROWS_WITH(read_exact_at(fd.get(), out, 9, path), Catch::Contains(path.string()));
  CHECK((test::kind_thrown([&] { read_exact_at(fd.get(), out, 9, path); }) == ErrorKind::kIo));
}

TEST_CASE("a failure is an I/O error that names the path", "[base][file]") {
  const TempDirectory dir;
  const auto absent = dir.path() / "absent";
  CHECK((test::kind_thrown([&] { open_file(absent, O_RDONLY); }) == ErrorKind::kIo));
  CHECK_THROWS_WITH(open_file(absent, O_RDONLY), Catch::Contains(absent.string()));
  CHECK_THROWS_WITH(read_file(absent, kLimit), Catch::Contains(absent.string()));
  CHECK_THROWS_WITH(replace_file(absent / "y", {}), Catch::Contains(absent.string()));
  CHECK_THROWS_WITH(create_file(absent / "y", {}), Catch::Contains(absent.string()));
  CHECK_THROWS_WITH(sync_directory(absent), Catch::Contains(absent.string()));
  CHECK_FALSE(open_if_exists(absent, O_RDONLY).has_value());
  CHECK_FALSE(read_file_if_exists(absent, kLimit).has_value());
  CHECK_NOTHROW(remove_if_exists(absent));
  if (const auto full = open_if_exists("/dev/full", O_WRONLY)) {
    CHECK_THROWS_WITH(write_all_at(full->get(), as_bytes("x"), 0, "/dev/full"), Catch::Contains("no space left"));
  }
}

TEST_CASE("a whole file is read up to a limit", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x";
  for (const std::size_t size : {0, 1, 4095, 4096, 100'000}) {
    const Bytes bytes = test::random_bytes(size, size);
    replace_file(path, bytes);
    CHECK((read_file(path, size) == bytes));
    CHECK((read_file_if_exists(path, kLimit) == bytes));
    if (size > 0) CHECK((test::kind_thrown([&] { read_file(path, size - 1); }) == ErrorKind::kCorrupt));
  }
  SECTION("also one that does not know its size, as in /proc") {
    CHECK(read_file("/proc/self/status", kLimit).size() > 100);
    CHECK((test::kind_thrown([&] { read_file("/proc/self/status", 100); }) == ErrorKind::kCorrupt));
  }
  SECTION("but no directory, device or FIFO") {
    REQUIRE(::mkfifo((dir.path() / "fifo").c_str(), 0600) == 0);
    CHECK((test::kind_thrown([&] { read_file(dir.path() / "fifo", kLimit); }) == ErrorKind::kIo));
    CHECK((test::kind_thrown([&] { read_file(dir.path(), kLimit); }) == ErrorKind::kIo));
    CHECK((test::kind_thrown([&] { read_file("/dev/zero", kLimit); }) == ErrorKind::kIo));
  }
}

TEST_CASE("no symlink is followed in the last component", "[base][file]") {
  const TempDirectory dir;
  const auto target = dir.path() / "target";
  const auto link = dir.path() / "link";
  replace_file(target, as_bytes("precious"));
  fs::create_symlink(target, link);

  CHECK((test::kind_thrown([&] { open_file(link, O_RDWR); }) == ErrorKind::kIo));
  CHECK((test::kind_thrown([&] { open_file(link, O_RDWR | O_CREAT); }) == ErrorKind::kIo));
  CHECK((test::kind_thrown([&] { open_if_exists(link, O_RDONLY); }) == ErrorKind::kIo));
  CHECK((test::kind_thrown([&] { read_file(link, kLimit); }) == ErrorKind::kIo));
  CHECK((test::kind_thrown([&] { FileLock::try_acquire(link); }) == ErrorKind::kIo));
  CHECK_THROWS_WITH(read_file(link, kLimit), Catch::Contains("symbolic link"));
  CHECK((create_file(link, as_bytes("x")) == CreateResult::kExists));

  SECTION("replacing replaces the link") {
    replace_file(link, as_bytes("new"));
    CHECK_FALSE(fs::is_symlink(link));
  }
  SECTION("removing removes the link") {
    remove_if_exists(link);
    CHECK_FALSE(fs::is_symlink(link));
  }
  SECTION("nothing is created where a dangling one points") {
    fs::create_symlink(dir.path() / "nowhere", dir.path() / "dangling");
    CHECK((test::kind_thrown([&] { open_file(dir.path() / "dangling", O_RDWR | O_CREAT); }) == ErrorKind::kIo));
    CHECK((create_file(dir.path() / "dangling", {}) == CreateResult::kExists));
    CHECK_FALSE(fs::exists(dir.path() / "nowhere"));
  }
  CHECK(as_text(read_file(target, kLimit)) == "precious");
}

TEST_CASE("a symlink above the last component is followed", "[base][file]") {
  const TempDirectory dir;
  fs::create_directory_symlink(dir.path(), dir.path() / "here");
  replace_file(dir.path() / "here" / "x", as_bytes("y"));
  CHECK((create_file(dir.path() / "here" / "z", as_bytes("z")) == CreateResult::kCreated));
  CHECK(as_text(read_file(dir.path() / "x", kLimit)) == "y");
}

TEST_CASE("a directory that is held open is synced when no more files can be opened", "[base][file]") {
  const TempDirectory temp;
  const Directory directory(temp.path());
  const UniqueFd file = directory.open("new", O_RDWR | O_CREAT | O_EXCL);
  CHECK(mode_of(temp.path() / "new") == 0600);
  {
    const test::DescriptorLimit none(0);
    CHECK_NOTHROW(directory.sync());
    CHECK(test::kind_thrown([&] { sync_directory(temp.path()); }) == ErrorKind::kIo);
    directory.rename("new", "newer");
  }
  CHECK(names_in(temp.path()) == std::set<std::string>{"newer"});
  {
    const test::DescriptorLimit none(0);
    directory.remove_if_exists("newer");
    directory.remove_if_exists("newer");
  }
  CHECK(names_in(temp.path()).empty());
  CHECK(test::kind_thrown([&] { directory.open("new", O_RDWR); }) == ErrorKind::kIo);
}

TEST_CASE("replace_file replaces and leaves nothing else", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x";
  replace_file(path, as_bytes("one"));
  const auto before = open_file(path, O_RDONLY);
  replace_file(path, as_bytes("two"));
  CHECK(as_text(read_file(path, kLimit)) == "two");
  Bytes old(3);
  read_exact_at(before.get(), old, 0, path);
  CHECK(as_text(old) == "one");  // a reader of the old file keeps it
  CHECK((names_in(dir.path()) == std::set<std::string>{"x"}));

  SECTION("also when it fails") {
    fs::create_directory(dir.path() / "d");
    CHECK((test::kind_thrown([&] { replace_file(dir.path() / "d", as_bytes("x")); }) == ErrorKind::kIo));
    CHECK((names_in(dir.path()) == std::set<std::string>{"d", "x"}));
    CHECK((test::kind_thrown([&] { replace_file(dir.path() / "d/", as_bytes("x")); }) == ErrorKind::kIo));
    CHECK((test::kind_thrown([&] { replace_file(dir.path() / "..", as_bytes("x")); }) == ErrorKind::kIo));
  }
  SECTION("with a name as long as names may be") {
    const auto longest = dir.path() / std::string(255, 'n');
    replace_file(longest, as_bytes("x"));
    CHECK((create_file(longest, {}) == CreateResult::kExists));
  }
  SECTION("while many do it at once, someone's bytes are there whole") {
    const Bytes bytes[] = {Bytes(5000, 'a'), Bytes(7000, 'b')};
    std::atomic<int> torn{0};
    parallel_for(40, 4, [&](std::size_t i) {
      if (i % 4 < 2) replace_file(path, bytes[i % 2]);
      const Bytes seen = read_file(path, kLimit);
      if (seen != bytes[0] && seen != bytes[1] && as_text(seen) != "two") ++torn;
    });
    CHECK(torn == 0);
  }
}

TEST_CASE("create_file creates once", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x";
  CHECK((create_file(path, as_bytes("one")) == CreateResult::kCreated));
  CHECK((create_file(path, as_bytes("two")) == CreateResult::kExists));
  CHECK(as_text(read_file(path, kLimit)) == "one");
  CHECK((names_in(dir.path()) == std::set<std::string>{"x"}));
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK(status.st_nlink == 1);
}

TEST_CASE("exactly one of eight writers that race to create a file wins, and its bytes are there", "[base][file]") {
  const TempDirectory dir;
  constexpr std::size_t kRacers = 8;
  for (int round = 0; round < 20; ++round) {
    const auto path = dir.path() / std::to_string(round);
    std::latch start(kRacers);
    std::atomic<int> winners{0};
    std::atomic<std::size_t> winner{0};
    parallel_for(kRacers, kRacers, [&](std::size_t i) {
      const Bytes bytes = test::random_bytes(10'000 + i, i);
      start.arrive_and_wait();
      if (create_file(path, bytes) == CreateResult::kCreated) {
        ++winners;
        winner = i;
      }
    });
    REQUIRE(winners == 1);
    REQUIRE((read_file(path, kLimit) == test::random_bytes(10'000 + winner, winner)));
  }
  CHECK(names_in(dir.path()).size() == 20);  // and no temporary file stays
}

TEST_CASE("where hard links are refused one racer still wins", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x";
  std::latch start(8);
  std::atomic<int> winners{0};
  std::atomic<int> losers{0};
  std::atomic<bool> possible{true};
  const bool can_rename = GENERATE(true, false);
  {
    std::vector<std::jthread> racers;
    for (int i = 0; i < 8; ++i) {
      racers.emplace_back([&] {
        if (!forbid_hard_links() || (!can_rename && !forbid_exclusive_rename())) possible = false;
        start.arrive_and_wait();
        if (!possible) return;
        (create_file(path, as_bytes("bytes")) == CreateResult::kCreated ? winners : losers)++;
      });
    }
  }
  if (!possible) {
    WARN("seccomp is not to be had here: not tested");
    return;
  }
  CHECK(winners == 1);
  CHECK(losers == 7);
  CHECK(as_text(read_file(path, kLimit)) == "bytes");
  CHECK(mode_of(path) == 0600);
  CHECK((names_in(dir.path()) == std::set<std::string>{"x"}));
}

TEST_CASE("where hard links are refused a new file still appears whole", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x";
  bool possible = false;
  bool seen_early = false;
  std::jthread([&] {
    possible = forbid_hard_links();
    if (!possible) return;
    before_sync = [&] { seen_early = seen_early || fs::exists(path); };
    create_file(path, as_bytes("bytes"));
  }).join();
  if (!possible) {
    WARN("seccomp is not to be had here: not tested");
    return;
  }
  CHECK_FALSE(seen_early);
  CHECK(as_text(read_file(path, kLimit)) == "bytes");
}

TEST_CASE("modes do not depend on the umask", "[base][file]") {
  const TempDirectory dir;
  for (const mode_t mask : {0000U, 0077U, 0777U}) {
    const Umask umask(mask);
    const auto name = [&](const char* what) { return dir.path() / (what + std::to_string(mask)); };
    replace_file(name("replaced"), as_bytes("x"));
    create_file(name("created"), as_bytes("x"));
    replace_file(name("public"), as_bytes("x"), 0644);
    make_private_directory(name("directory") / "below");
    CHECK(mode_of(name("replaced")) == 0600);
    CHECK(mode_of(name("created")) == 0600);
    CHECK(mode_of(name("public")) == 0644);
    CHECK(mode_of(name("directory")) == 0700);
    CHECK(mode_of(name("directory") / "below") == 0700);
  }
  const Umask umask(0000);
  const auto opened = open_file(dir.path() / "opened", O_RDWR | O_CREAT);
  const auto locked = FileLock::try_acquire(dir.path() / "locked");
  const TempDirectory temporary;
  CHECK(mode_of(dir.path() / "opened") == 0600);
  CHECK(mode_of(dir.path() / "locked") == 0600);
  CHECK(mode_of(temporary.path()) == 0700);
}

TEST_CASE("a directory whose name could not be synced is not left behind", "[base][file]") {
  const TempDirectory dir;
  const fs::path made = dir.path() / "made";
  {
    const test::DescriptorLimit none(0);
    CHECK((test::kind_thrown([&] { make_private_directory(made); }) == ErrorKind::kIo));
  }
  CHECK_FALSE(fs::exists(made));
  make_private_directory(made);
  CHECK(fs::is_directory(made));
}

TEST_CASE("a private directory is made with its parents", "[base][file]") {
  const TempDirectory dir;
  const auto deep = dir.path() / "a" / "b" / "c";
  make_private_directory(deep);
  make_private_directory(deep);
  CHECK(fs::is_directory(deep));
  make_private_directory((dir.path() / "d").string() + "/");
  CHECK(fs::is_directory(dir.path() / "d"));
  CHECK_NOTHROW(parallel_for(8, 8, [&](std::size_t) { make_private_directory(dir.path() / "e" / "f" / "g"); }));
}

TEST_CASE("a directory that is not ours alone is refused", "[base][file]") {
  const TempDirectory dir;
  const auto refused = [](const fs::path& path) {
    return test::kind_thrown([&] { make_private_directory(path); }) == ErrorKind::kDenied;
  };
  const auto made = dir.path() / "made";
  make_private_directory(made);
  for (const mode_t mode : {0720U, 0702U, 0777U, 01777U}) {
    REQUIRE(::chmod(made.c_str(), mode) == 0);
    CHECK(refused(made));
  }
  for (const mode_t mode : {0755U, 0700U}) {
    REQUIRE(::chmod(made.c_str(), mode) == 0);
    CHECK_FALSE(refused(made));
  }
  fs::create_directory_symlink(made, dir.path() / "link");
  CHECK(refused(dir.path() / "link"));
  CHECK(refused((dir.path() / "link").string() + "/"));
  fs::create_symlink(dir.path() / "nowhere", dir.path() / "dangling");
  CHECK(refused(dir.path() / "dangling"));
  replace_file(dir.path() / "file", {});
  CHECK(refused(dir.path() / "file"));
  if (::geteuid() == 0) {
    REQUIRE(::chown(made.c_str(), 65534, 65534) == 0);
    CHECK(refused(made));
  } else {
    CHECK(refused("/"));
  }
}

TEST_CASE("a lock is held by one until it goes", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "lock";
  auto lock = FileLock::try_acquire(path);
  REQUIRE(lock.has_value());
  CHECK_FALSE(FileLock::try_acquire(path).has_value());
  CHECK(FileLock::is_held(path));
  lock.reset();
  CHECK_FALSE(FileLock::is_held(path));
  CHECK(FileLock::try_acquire(path).has_value());
}

TEST_CASE("a look at a lock is in nobody's way", "[base][file]") {
  const TempDirectory dir;
  const auto path = dir.path() / "lock";
  CHECK_FALSE(FileLock::is_held(path));
  FileLock::try_acquire(path);
  const std::jthread looker([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) FileLock::is_held(path);
  });
  int refused = 0;
  for (int i = 0; i < 2000; ++i) refused += FileLock::try_acquire(path) ? 0 : 1;
  CHECK(refused == 0);
}

TEST_CASE("descriptors are not inherited", "[base][file]") {
  const TempDirectory dir;
  const auto fd = open_file(dir.path() / "x", O_RDWR | O_CREAT);
  CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("a temporary directory goes with all in it, and nothing outside", "[base][file]") {
  const TempDirectory outside;
  replace_file(outside.path() / "kept", {});
  fs::path gone;
  {
    const TempDirectory dir("isr-test");
    gone = dir.path();
    make_private_directory(gone / "a" / "b");
    fs::create_directory_symlink(outside.path(), gone / "link");
  }
  CHECK_FALSE(fs::exists(gone));
  CHECK(fs::exists(outside.path() / "kept"));
}

TEST_CASE("a file that no name leads to is made also where the file system makes none", "[base]") {
  const TempDirectory directory;
  const std::uint32_t refusal = GENERATE(0, EOPNOTSUPP, EISDIR);
  CAPTURE(refusal);
  bool possible = true;
  std::jthread([&] {  // what is forbidden is forbidden to the thread for good
    if (refusal != 0 && !forbid_unnamed_files(refusal)) {
      possible = false;
      return;
    }
    const UniqueFd fd = open_unnamed_file(directory.path());
    const UniqueFd other = open_unnamed_file(directory.path());
    CHECK(names_in(directory.path()).empty());
    write_all_at(fd.get(), as_bytes("bytes"), 100, "the file");
    Bytes out(5);
    read_exact_at(fd.get(), out, 100, "the file");
    CHECK(as_text(out) == "bytes");
    CHECK(file_size(other.get(), "the other") == 0);
    struct stat status {};
    REQUIRE(::fstat(fd.get(), &status) == 0);
    CHECK(status.st_nlink == 0);
    CHECK((status.st_mode & 07777U) == 0600U);
  })
      .join();
  if (!possible) WARN("seccomp is not to be had here: not tested");
  CHECK(test::kind_thrown([&] { open_unnamed_file(directory.path() / "absent"); }) == ErrorKind::kIo);
}
