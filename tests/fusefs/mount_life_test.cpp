// How a mount begins, ends and is found dead.

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <csignal>
#include <thread>

#include "fusefs/mount_point.h"
#include "mounted_image.h"

namespace isr {
namespace {

using test::can_mount;
using test::exit_code_of;
using test::in_child;
using test::MountedImage;

ErrorKind kind_of_make(const fs::path& point) {
  try {
    make_mount(point, {}, {}, {});
  } catch (const Error& error) {
    UNSCOPED_INFO(error.what());
    return error.kind();
  }
  return ErrorKind::kBug;
}

/// A pipe over which one process tells another that it got somewhere.
class Signal {
 public:
  Signal() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) throw_errno("pipe", errno);
  }
  ~Signal() {
    for (const int end : ends_) ::close(end);
  }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  bool give() { return ::write(ends_[1], "x", 1) == 1; }
  bool take() {
    char c = 0;
    return ::read(ends_[0], &c, 1) == 1;
  }

 private:
  std::array<int, 2> ends_{};
};

TEST_CASE("a mount point must be an empty directory that nobody mounted on", "[fusefs]") {
  const TempDirectory directory;
  CHECK(kind_of_make(directory.path() / "absent") == ErrorKind::kUsage);
  fs::create_symlink("loop", directory.path() / "loop");
  CHECK(kind_of_make(directory.path() / "loop") == ErrorKind::kUsage);
  CHECK(kind_of_make("") == ErrorKind::kUsage);
  replace_file(directory.path() / "file", as_bytes("x"));
  CHECK(kind_of_make(directory.path() / "file") == ErrorKind::kUsage);
  CHECK(kind_of_make(directory.path()) == ErrorKind::kUsage);
  if (!can_mount()) return;
  const MountedImage mounted;
  CHECK(kind_of_make(mounted.point()) == ErrorKind::kUsage);
  CHECK(kind_of_make(mounted.point() / "disk.raw") == ErrorKind::kUsage);
}

TEST_CASE("what keeps FUSE from working is named", "[fusefs]") {
  const FuseAccess good{.device = "/dev/null", .root = false, .no_new_privs = false, .fusermount = "/bin/fusermount3"};
  CHECK_FALSE(why_no_fuse(good).has_value());
  FuseAccess access = good;
  SECTION("no device") {
    access.device = "/dev/absent-device";
    CHECK_THAT(why_no_fuse(access).value(), Catch::Contains("/dev/absent-device is absent"));
  }
  SECTION("no fusermount3, which root does not need") {
    access.fusermount.reset();
    CHECK_THAT(why_no_fuse(access).value(), Catch::Contains("fusermount3"));
    access.root = true;
    CHECK_FALSE(why_no_fuse(access).has_value());
  }
  SECTION("no_new_privs, which root does not mind") {
    access.no_new_privs = true;
    CHECK_THAT(why_no_fuse(access).value(), Catch::Contains("no_new_privs"));
    access.root = true;
    CHECK_FALSE(why_no_fuse(access).has_value());
  }
  SECTION("no_new_privs is seen in this process") {
    CHECK(exit_code_of(in_child([] {
            ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            return probe_fuse_access().no_new_privs ? 0 : 1;
          })) == 0);
  }
}

TEST_CASE("a directory without a mount is neither dead nor unmounted", "[fusefs]") {
  const TempDirectory directory;
  CHECK_FALSE(is_dead_mount(directory.path()));
  CHECK_FALSE(unmount(directory.path()));
  CHECK_FALSE(is_dead_mount(directory.path() / "absent"));
  CHECK_FALSE(unmount(directory.path() / "absent"));
}

TEST_CASE("a mount point's name may hold what mountinfo escapes, and end in a slash", "[fusefs]") {
  if (!can_mount()) return;
  const TempDirectory directory;
  const fs::path point = directory.path() / "a b\\c\td" / "";
  fs::create_directory(point.parent_path());
  const auto mount = make_mount(point, {{"x.raw", test::zero_image("x", 5000, nullptr)}}, {}, {});
  mount->start();
  CHECK(mount_at(absolute_mount_point(point)).has_value());
  CHECK(fs::file_size(point / "x.raw") == 5000);
  CHECK(unmount(point));
}

TEST_CASE("a link to a mount point stands for it", "[fusefs]") {
  if (!can_mount()) return;
  const TempDirectory directory;
  const MountedImage mounted;
  fs::create_directory_symlink(mounted.point(), directory.path() / "link");
  CHECK(kind_of_make(directory.path() / "link") == ErrorKind::kUsage);
  CHECK(unmount(directory.path() / "link"));
  CHECK_FALSE(unmount(directory.path() / "link"));
}

TEST_CASE("a mount ends when somebody unmounts it, and whoever waits is told", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  CHECK_FALSE(mounted.mount->ended());
  std::jthread somebody([&] { unmount(mounted.point()); });
  mounted.mount->wait({});
  CHECK(mounted.mount->ended());
  CHECK(fs::is_empty(mounted.point()));
}

TEST_CASE("waiting for the end of a mount can be stopped", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  std::jthread waiting([&](std::stop_token stop) { mounted.mount->wait(stop); });
  waiting.request_stop();
  waiting.join();
  CHECK_FALSE(mounted.mount->ended());
}

TEST_CASE("a busy mount is taken away all the same", "[fusefs]") {
  if (!can_mount()) return;
  auto mounted = std::make_unique<MountedImage>();
  const fs::path point = mounted->point();
  const auto fd = mounted->open("disk.raw", O_RDWR);
  mounted->mount.reset();
  CHECK_FALSE(mount_at(point).has_value());
  char c = 0;
  CHECK(::pread(fd.get(), &c, 1, 0) == -1);
  CHECK((errno == ENOTCONN || errno == ECONNABORTED));
}

TEST_CASE("a read of memory that cannot succeed ends with the mount", "[fusefs]") {
  if (!can_mount()) return;
  MountedImage mounted;
  const auto fd = mounted.open("ram.raw", O_RDWR | O_DIRECT);
  mounted.ram_overlay->failing_reads = 1 << 30;
  ssize_t result = 0;
  std::jthread reader([&] {
    Bytes out(4096);
    result = ::pread(fd.get(), out.data(), out.size(), 0);
  });
  while (mounted.ram_overlay->reads == 0) std::this_thread::yield();
  mounted.mount.reset();
  reader.join();
  CHECK(result == -1);
}

TEST_CASE("a process that waits for memory can be killed", "[fusefs]") {
  if (!can_mount()) return;
  MountedImage mounted;
  mounted.ram_overlay->failing_reads = 1 << 30;
  const pid_t child = in_child([&] {
    const auto fd = mounted.open("ram.raw", O_RDWR);
    test::Mapping mapping(fd.get(), MountedImage::kSize);
    return mapping.bytes()[0];
  });
  while (mounted.ram_overlay->reads == 0) std::this_thread::yield();
  ::kill(child, SIGKILL);
  CHECK(exit_code_of(child) == 128 + SIGKILL);
  CHECK_FALSE(mounted.mount->ended());
}

TEST_CASE("a mount whose daemon was killed is found dead and can be replaced", "[fusefs]") {
  if (!can_mount()) return;
  const TempDirectory directory;
  Signal ready;
  const pid_t daemon = in_child([&] {
    const auto mount = make_mount(directory.path(), {{"x.raw", test::zero_image("x", 5000, nullptr)}}, {}, {});
    mount->start();
    ready.give();
    mount->wait({});
    return 0;
  });
  REQUIRE(ready.take());
  UniqueFd held(::open((directory.path() / "x.raw").c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(held);
  CHECK_FALSE(is_dead_mount(directory.path()));
  ::kill(daemon, SIGKILL);
  REQUIRE(exit_code_of(daemon) == 128 + SIGKILL);
  CHECK(is_dead_mount(directory.path()));

  SECTION("by unmount()") {
    CHECK(unmount(directory.path()));
    CHECK_FALSE(is_dead_mount(directory.path()));
    CHECK_FALSE(unmount(directory.path()));
  }
  SECTION("by a new mount") {
    const auto mount = make_mount(directory.path(), {{"y.raw", test::zero_image("y", 6000, nullptr)}}, {}, {});
    mount->start();
    CHECK(fs::file_size(directory.path() / "y.raw") == 6000);
  }
}

TEST_CASE("two processes exclude each other by OFD locks", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto fd = mounted.open("disk.raw", O_RDWR);
  const auto try_lock = [](int file) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = 100;
    lock.l_len = 1;
    return ::fcntl(file, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
  };
  REQUIRE(try_lock(fd.get()) == 0);
  const auto other = [&] {
    const auto again = mounted.open("disk.raw", O_RDWR);
    return try_lock(again.get());
  };
  CHECK(exit_code_of(in_child(other)) == EAGAIN);
}

TEST_CASE("thousands of open handles are counted and given back", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const std::size_t count = std::min<std::size_t>(limit.rlim_cur - 100, 10000);
  {
    std::vector<UniqueFd> handles;
    for (std::size_t i = 0; i < count; ++i) handles.push_back(mounted.open("disk.raw", O_RDONLY));
    CHECK(mounted.mount->open_handles() == count);
  }
  while (mounted.mount->open_handles() != 0) std::this_thread::yield();  // releases are not waited for by close()
}

TEST_CASE("an unprivileged user mounts through fusermount3", "[fusefs]") {
  if (!can_mount()) return;
  struct stat device {};
  const bool open_to_all = ::stat("/dev/fuse", &device) == 0 && (device.st_mode & 0006U) == 0006U;
  if (::geteuid() != 0 || !open_to_all || !probe_fuse_access().fusermount) {
    WARN("skipped: needs root, to become somebody else, fusermount3, and a /dev/fuse that all may open");
    return;
  }
  const TempDirectory directory;
  constexpr uid_t kNobody = 65534;
  REQUIRE(::chmod(directory.path().c_str(), 0711) == 0);
  const fs::path point = directory.path() / "mount";
  REQUIRE(::mkdir(point.c_str(), 0700) == 0);
  REQUIRE(::chown(point.c_str(), kNobody, kNobody) == 0);
  const auto body = [&](auto&& after_becoming) {
    if (::setresgid(kNobody, kNobody, kNobody) != 0 || ::setresuid(kNobody, kNobody, kNobody) != 0) return 90;
    return after_becoming();
  };
  SECTION("and unmounts, also when busy") {
    CHECK(exit_code_of(in_child([&] {
            return body([&] {
              auto mount =
                  make_mount(point, {{"x.raw", test::zero_image("x", 5000, nullptr)}}, {}, {.source_name = "a,b"});
              mount->start();
              const auto mounted = mount_at(point);
              if (!mounted || mounted->source != "a,b" || mounted->type != "fuse.isr") return 1;
              const UniqueFd fd(::open((point / "x.raw").c_str(), O_RDONLY | O_CLOEXEC));
              char c = 1;
              if (::pread(fd.get(), &c, 1, 4999) != 1 || c != 0) return 2;
              mount.reset();
              return mount_at(point) ? 3 : 0;
            });
          })) == 0);
  }
  SECTION("unless no_new_privs is set") {
    CHECK(exit_code_of(in_child([&] {
            return body([&] {
              ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
              return kind_of_make(point) == ErrorKind::kDaemon ? 0 : 1;
            });
          })) == 0);
  }
}

}  // namespace
}  // namespace isr
