// How a mount begins, ends and is found dead.

#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>

#include <csignal>
#include <fstream>
#include <latch>
#include <thread>

#include "base/whole_file.h"
#include "fusefs/mount.h"
#include "fusefs/mount_point.h"
#include "mounted_image.h"
#include "support/no_threads.h"

namespace isr {
namespace {

using test::can_mount;
using test::Counter;
using test::exit_code_of;
using test::File;
using test::in_child;
using test::MountedImage;
using test::Signal;

ErrorKind kind_of_make(const fs::path& point) {
  try {
    make_mount(point, {}, {}, {});
  } catch (const Error& error) {
    UNSCOPED_INFO(error.what());
    return error.kind();
  }
  return ErrorKind::kBug;
}

/// The line of /proc/self/mountinfo, which holds the options.
std::string mount_options_at(const fs::path& point) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" " + point.string() + " ") != std::string::npos) return line;
  }
  return {};
}

TEST_CASE("a mount without a thread to serve it fails and leaves nothing mounted", "[fusefs]") {
  if (!can_mount()) return;
  const TempDirectory directory;
  const auto mount = make_mount(directory.path(), {}, [] { return std::string("{}"); }, {});
  {
    const test::NoThreads none;
    CHECK_THROWS(mount->start());
  }
  REQUIRE(mount_options_at(directory.path()).empty());  // a look below one that nothing serves would wait for ever
  CHECK(fs::is_empty(directory.path()));
}

TEST_CASE("a mount point must be an empty directory without a mount", "[fusefs]") {
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
  CHECK(kind_of_make(mounted.point() / "inside") == ErrorKind::kUsage);
  CHECK(kind_of_make(mounted.point() / "." / ".." / mounted.point().filename()) == ErrorKind::kUsage);
}

TEST_CASE("the reason why FUSE does not work is named", "[fusefs]") {
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
  SECTION("no_new_privs, which does not affect root") {
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
  const MountedImage mounted({.size = 5000, .point = point});
  CHECK(mount_at(absolute_mount_point(point)).has_value());
  CHECK(fs::file_size(point / "disk.raw") == 5000);
  CHECK(unmount(point));
}

TEST_CASE("a mount point can be given as a link to it", "[fusefs]") {
  if (!can_mount()) return;
  const TempDirectory directory;
  const MountedImage mounted;
  fs::create_directory_symlink(mounted.point(), directory.path() / "link");
  CHECK(kind_of_make(directory.path() / "link") == ErrorKind::kUsage);
  CHECK(unmount(directory.path() / "link"));
  CHECK_FALSE(unmount(directory.path() / "link"));
}

TEST_CASE("wait() returns when another process unmounts the mount", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  CHECK_FALSE(mounted.ended());
  std::jthread somebody([&] { unmount(mounted.point()); });
  mounted.wait();
  CHECK(mounted.ended());
  CHECK(fs::is_empty(mounted.point()));
}

TEST_CASE("a mount that several processes unmount at once is gone, and none of them fails", "[fusefs]") {
  if (!can_mount()) return;
  for (int i = 0; i < 60; ++i) {
    const MountedImage mounted;
    const auto busy = mounted.open("disk.raw", O_RDONLY);  // so that each has to try twice
    std::atomic<int> failures{0};
    std::latch together(3);
    {
      std::vector<std::jthread> several(3);
      for (auto& one : several) {
        one = std::jthread([&] {
          together.arrive_and_wait();
          try {
            unmount(mounted.point());
          } catch (const Error&) {
            ++failures;
          }
        });
      }
    }
    REQUIRE(failures == 0);
    REQUIRE_FALSE(mount_at(mounted.point()).has_value());
  }
}

TEST_CASE("waiting for the end of a mount can be stopped", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  mounted.stop_waiting();
  CHECK_FALSE(mounted.ended());
}

TEST_CASE("a busy mount is unmounted lazily", "[fusefs]") {
  if (!can_mount()) return;
  MountedImage mounted;
  const auto fd = mounted.open("disk.raw", O_RDWR);
  mounted.end();
  CHECK_FALSE(mount_at(mounted.point()).has_value());
  char c = 0;
  CHECK(::pread(fd.get(), &c, 1, 0) == -1);
  CHECK((errno == ENOTCONN || errno == ECONNABORTED));
}

TEST_CASE("a read of memory that cannot succeed fails when the mount ends", "[fusefs]") {
  if (!can_mount()) return;
  MountedImage mounted;
  const auto fd = mounted.open("ram.raw", O_RDWR | O_DIRECT);
  mounted.set(File::kRam, Counter::kFailingReads, 1U << 30U);
  ssize_t result = 0;
  std::jthread reader([&] {
    Bytes out(4096);
    result = ::pread(fd.get(), out.data(), out.size(), 0);
  });
  while (mounted.get(File::kRam, Counter::kReads) == 0) std::this_thread::yield();
  mounted.end();
  reader.join();
  CHECK(result == -1);
}

TEST_CASE("a process that waits for memory can be killed", "[fusefs]") {
  if (!can_mount()) return;
  MountedImage mounted;
  mounted.set(File::kRam, Counter::kFailingReads, 1U << 30U);
  const pid_t child = in_child([&] {
    const auto fd = mounted.open("ram.raw", O_RDWR);
    test::Mapping mapping(fd.get(), MountedImage::kSize);
    return mapping.bytes()[0];
  });
  while (mounted.get(File::kRam, Counter::kReads) == 0) std::this_thread::yield();
  ::kill(child, SIGKILL);
  CHECK(exit_code_of(child) == 128 + SIGKILL);
  CHECK_FALSE(mounted.ended());
}

TEST_CASE("a mount whose daemon was killed is recognised as dead and can be replaced", "[fusefs]") {
  if (!can_mount()) return;
  const TempDirectory directory;
  MountedImage mounted({.size = 5000, .point = directory.path()});
  const auto held = mounted.open("disk.raw", O_RDONLY);
  CHECK_FALSE(is_dead_mount(directory.path()));
  mounted.kill();
  CHECK(is_dead_mount(directory.path()));
  CHECK(kind_of_make(directory.path() / "below") == ErrorKind::kIo);

  SECTION("by unmount()") {
    CHECK(unmount(directory.path()));
    CHECK_FALSE(is_dead_mount(directory.path()));
    CHECK_FALSE(unmount(directory.path()));
  }
  SECTION("by a new mount") {
    const MountedImage again({.size = 6000, .point = directory.path()});
    CHECK(fs::file_size(directory.path() / "disk.raw") == 6000);
  }
}

TEST_CASE("a stopped daemon does not count as dead, and a process that waits for it can be killed", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  REQUIRE(::kill(mounted.server(), SIGSTOP) == 0);
  CHECK_FALSE(is_dead_mount(mounted.point()));
  CHECK(kind_of_make(mounted.point()) == ErrorKind::kUsage);
  Signal begun;
  const pid_t child = in_child([&] {
    begun.give();
    char c = 0;
    return static_cast<int>(::pread(mounted.open("disk.raw", O_RDONLY).get(), &c, 1, 0));
  });
  REQUIRE(begun.take());
  ::kill(child, SIGKILL);
  CHECK(exit_code_of(child) == 128 + SIGKILL);
  REQUIRE(::kill(mounted.server(), SIGCONT) == 0);
}

TEST_CASE("the server of a killed test leaves neither a mount nor a process", "[fusefs]") {
  if (!can_mount()) return;
  const TempDirectory directory;
  const fs::path point = directory.path() / "mount";
  fs::create_directory(point);
  Signal ready;
  const pid_t child = in_child([&] {
    const MountedImage mounted({.size = MountedImage::kSize, .point = point});
    const auto fd = mounted.open("ram.raw", O_RDWR);
    test::Mapping mapping(fd.get(), MountedImage::kSize);
    std::ranges::fill(mapping.bytes(), std::uint8_t{1});
    ready.give();
    return ::pause();
  });
  REQUIRE(ready.take());
  REQUIRE(mount_at(point).has_value());
  ::kill(child, SIGKILL);
  CHECK(exit_code_of(child) == 128 + SIGKILL);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (fs::exists(fs::symlink_status(point)) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK_FALSE(mount_at(point).has_value());
  CHECK_FALSE(fs::exists(point));
}

TEST_CASE("the kernel checks permissions and denies other users", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const std::string options = mount_options_at(mounted.point());
  CHECK_THAT(options, Catch::Contains("nosuid") && Catch::Contains("nodev"));
  CHECK_THAT(options, Catch::Contains("default_permissions"));
  CHECK_THAT(options, !Catch::Contains("allow_other"));
}

constexpr uid_t kNobody = 65534;

/// Runs body as nobody in a mount namespace where all may open /dev/fuse; `change` may alter it before, as root.
template <class Change, class Body>
int as_nobody(const fs::path& scratch, Change&& change, Body&& body) {
  return exit_code_of(in_child([&] {
    const std::string device = scratch / "fuse";
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 90;
    if (::mknod(device.c_str(), S_IFCHR, makedev(10, 229)) != 0 || ::chmod(device.c_str(), 0666) != 0) return 91;
    if (::mount(device.c_str(), "/dev/fuse", nullptr, MS_BIND, nullptr) != 0) return 92;
    change();
    if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0) return 93;
    if (::setresuid(kNobody, kNobody, kNobody) != 0) return 94;
    return body();
  }));
}

bool can_become_nobody() {
  if (::geteuid() == 0 && probe_fuse_access().fusermount) return true;
  WARN("skipped: needs root, to become somebody else, and fusermount3");
  return false;
}

TEST_CASE("an unprivileged user mounts through fusermount3", "[fusefs]") {
  if (!can_mount() || !can_become_nobody()) return;
  const TempDirectory directory;
  REQUIRE(::chmod(directory.path().c_str(), 0711) == 0);
  const fs::path point = directory.path() / "mount";
  REQUIRE(::mkdir(point.c_str(), 0700) == 0);
  REQUIRE(::chown(point.c_str(), kNobody, kNobody) == 0);
  const auto refusal = [&] {
    try {
      make_mount(point, {}, {}, {});
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kDaemon ? std::string(error.what())
                                                : "another kind: " + std::string(error.what());
    }
    return std::string("none");
  };
  const auto nothing = [] {};

  SECTION("and unmounts, also when busy") {
    std::optional<MountedImage> mounted;
    CHECK(as_nobody(
              directory.path(),
              [&] {
                mounted.emplace(
                    test::MountedOptions{.size = 5000, .source_name = "a,b", .point = point, .user = kNobody});
              },
              [&] {
                const auto found = mount_at(point);
                if (!found || found->source != "a,b" || found->type != "fuse.isr") return 1;
                const std::string options = mount_options_at(point);
                if (options.find("default_permissions") == std::string::npos) return 2;
                if (options.find("allow_other") != std::string::npos) return 3;
                const auto fd = mounted->open("disk.raw", O_RDONLY);
                char c = 1;
                if (::pread(fd.get(), &c, 1, 4999) != 1 || c != 0) return 4;
                mounted->end();
                return mount_at(point) ? 5 : 0;
              }) == 0);
  }
  SECTION("unless no_new_privs is set") {
    CHECK(as_nobody(directory.path(), nothing, [&] {
            ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            return refusal().find("no_new_privs") != std::string::npos ? 0 : 1;
          }) == 0);
  }
  SECTION("unless /dev/fuse is absent") {
    CHECK(as_nobody(
              directory.path(), [] { ::mount("none", "/dev", "tmpfs", 0, nullptr); },
              [&] { return refusal().find("/dev/fuse is absent") != std::string::npos ? 0 : 1; }) == 0);
  }
  SECTION("unless it may not open /dev/fuse") {
    CHECK(as_nobody(
              directory.path(), [&] { ::chmod((directory.path() / "fuse").c_str(), 0600); },
              [&] { return refusal().find("may not open /dev/fuse") != std::string::npos ? 0 : 1; }) == 0);
  }
  SECTION("unless fusermount3 is absent") {
    const auto helper = probe_fuse_access().fusermount.value();
    CHECK(as_nobody(
              directory.path(), [&] { ::mount("/dev/null", helper.c_str(), nullptr, MS_BIND, nullptr); },
              [&] { return refusal().find("fusermount3 is not installed") != std::string::npos ? 0 : 1; }) == 0);
  }
}

}  // namespace
}  // namespace isr
