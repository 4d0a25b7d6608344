#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/file_bench.h"
#include "base/file_lock.h"
#include "base/thread_pool.h"
#include "base/whole_file.h"
#include "support/bytes.h"
#include "support/descriptor_limit.h"
#include "support/error_kind.h"

using namespace isr;
using test::forbid_unnamed_files;
using test::mode_of;
using test::names_in;
using test::Umask;

namespace {

constexpr std::size_t kLimit = 1 << 20;

}  // namespace

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
  SECTION("even one that does not know its size, as in /proc") {
    CHECK(read_file("/proc/self/status", kLimit).size() > 100);
    CHECK((test::kind_thrown([&] { read_file("/proc/self/status", 100); }) == ErrorKind::kCorrupt));
  }
  SECTION("but not a directory, device or FIFO") {
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
  SECTION("nothing is created at the target of a dangling link") {
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

TEST_CASE("an open directory can be synced when no more files can be opened", "[base][file]") {
  const TempDirectory temp;
  const Directory directory(temp.path());
  const UniqueFd file = directory.open("new", O_RDWR | O_CREAT | O_EXCL);
  CHECK(mode_of(temp.path() / "new") == 0600);
  std::optional<ErrorKind> by_name;
  {
    const test::DescriptorLimit none(0);  // a sanitizer opens files for a check, so all are behind this block
    directory.sync();
    by_name = test::kind_thrown([&] { sync_directory(temp.path()); });
    directory.rename("new", "newer");
  }
  CHECK((by_name == ErrorKind::kIo));
  CHECK(names_in(temp.path()) == std::set<std::string>{"newer"});
  {
    const test::DescriptorLimit none(0);
    directory.remove_if_exists("newer");
    directory.remove_if_exists("newer");
  }
  CHECK(names_in(temp.path()).empty());
  CHECK(test::kind_thrown([&] { directory.open("new", O_RDWR); }) == ErrorKind::kIo);
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
  std::optional<ErrorKind> failure;
  {
    const test::DescriptorLimit none(0);
    failure = test::kind_thrown([&] { make_private_directory(made); });
  }
  CHECK((failure == ErrorKind::kIo));
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

TEST_CASE("a directory that others own or can write to is refused", "[base][file]") {
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

TEST_CASE("descriptors are not inherited", "[base][file]") {
  const TempDirectory dir;
  const auto fd = open_file(dir.path() / "x", O_RDWR | O_CREAT);
  CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("a temporary directory is removed with its contents and nothing outside it", "[base][file]") {
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

TEST_CASE("an unnamed file can be made even where the file system does not support it", "[base]") {
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
