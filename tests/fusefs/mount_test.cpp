// What the mounted files answer.

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include <random>
#include <thread>

#include "mounted_image.h"

namespace isr {
namespace {

using test::can_mount;
using test::Counter;
using test::File;
using test::Mapping;
using test::MountedImage;

constexpr std::uint64_t kSize = MountedImage::kSize;

/// Random operations on disk.raw by every way in, beside the same on an array.
class Exerciser {
 public:
  Exerciser(const MountedImage& mounted, std::uint64_t seed)
      : buffered_(mounted.open("disk.raw", O_RDWR)),
        direct_(mounted.open("disk.raw", O_RDWR | O_DIRECT)),
        mapping_(buffered_.get(), kSize),
        random_(seed) {}

  bool step() {
    const std::uint64_t offset = random_() % kSize;
    const std::size_t longest = random_() % 50 == 0 ? 1500000 : 20000;
    const std::size_t length = std::min<std::size_t>(1 + random_() % longest, kSize - offset);
    switch (random_() % 8) {
      case 0:
        return read(buffered_.get(), offset, length);
      case 1:
        return read(direct_.get(), offset, length);
      case 2:
        return same(mapping_.bytes().subspan(offset, length), offset);
      case 3:
        return write(buffered_.get(), offset, length);
      case 4:
        return write(direct_.get(), offset, length);
      case 5:
        return copy(mapping_.bytes().subspan(offset, length), offset);
      case 6:
        return zero(offset, length);
      default:
        return random_() % 20 != 0 || ::fsync(buffered_.get()) == 0;
    }
  }
  bool ends_equal(const MountedImage& mounted) {
    return ::fsync(buffered_.get()) == 0 && mounted.content(File::kDisk, 0, kSize) == model_;
  }

 private:
  bool same(ByteView got, std::uint64_t offset) const {
    return std::equal(got.begin(), got.end(), model_.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  bool read(int fd, std::uint64_t offset, std::size_t length) {
    Bytes got(length);
    return ::pread(fd, got.data(), length, static_cast<off_t>(offset)) == static_cast<ssize_t>(length) &&
           same(got, offset);
  }
  MutableBytes fill(std::uint64_t offset, std::size_t length) {
    const auto part = MutableBytes(model_).subspan(offset, length);
    const auto seed = static_cast<std::uint8_t>(random_());
    for (std::size_t i = 0; i < length; ++i) part[i] = static_cast<std::uint8_t>(seed + i * 7 + (i >> 8U));
    return part;
  }
  bool write(int fd, std::uint64_t offset, std::size_t length) {
    const auto part = fill(offset, length);
    return ::pwrite(fd, part.data(), length, static_cast<off_t>(offset)) == static_cast<ssize_t>(length);
  }
  bool copy(MutableBytes to, std::uint64_t offset) {
    std::ranges::copy(fill(offset, to.size()), to.begin());
    return true;
  }
  bool zero(std::uint64_t offset, std::size_t length) {
    const int mode = random_() % 2 == 0 ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    std::ranges::fill(MutableBytes(model_).subspan(offset, length), std::uint8_t{0});
    return ::fallocate(buffered_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(length)) == 0;
  }

  UniqueFd buffered_;
  UniqueFd direct_;
  Mapping mapping_;
  std::mt19937_64 random_;
  Bytes model_ = Bytes(kSize);
};

/// 0, or the errno that the call left.
int errno_of(long long result) { return result < 0 ? errno : 0; }

TEST_CASE("buffered, direct and mapped access agree with a plain array", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  Exerciser exerciser(mounted, 20261123);
  for (int i = 0; i < 20000; ++i) {
    INFO("operation " << i);
    if (!exerciser.step()) FAIL("the file differs, or a call failed");
  }
  CHECK(exerciser.ends_equal(mounted));
}

TEST_CASE("attributes of a mount's files are fixed", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  struct stat root {
  }, disk{}, version{};
  REQUIRE(::stat(mounted.point().c_str(), &root) == 0);
  REQUIRE(::stat((mounted.point() / "disk.raw").c_str(), &disk) == 0);
  REQUIRE(::stat((mounted.point() / "version.raw").c_str(), &version) == 0);
  CHECK(root.st_mode == (S_IFDIR | 0700U));
  CHECK(disk.st_mode == (S_IFREG | 0600U));
  CHECK(version.st_mode == (S_IFREG | 0400U));
  CHECK(disk.st_ino == 2);
  CHECK(version.st_ino == 3);
  CHECK(disk.st_uid == ::geteuid());
  CHECK(static_cast<std::uint64_t>(disk.st_size) == kSize);
  CHECK(static_cast<std::uint64_t>(disk.st_blocks) == (kSize + 511) / 512);

  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(mounted.point())) names.push_back(entry.path().filename());
  CHECK(names == std::vector<std::string>{"disk.raw", "version.raw", "ram.raw", "stats.json"});
  struct statvfs space {};
  REQUIRE(::statvfs(mounted.point().c_str(), &space) == 0);
  CHECK(space.f_blocks * space.f_frsize >= 3 * kSize);
  CHECK((space.f_flag & (ST_NOSUID | ST_NODEV)) == (ST_NOSUID | ST_NODEV));
}

TEST_CASE("a mount refuses with the documented errno", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const std::string disk = mounted.point() / "disk.raw";
  const std::string other = mounted.point() / "other";
  const auto fd = mounted.open("disk.raw", O_RDWR);

  SECTION("names cannot be made, removed or changed") {
    CHECK(errno_of(::open(other.c_str(), O_CREAT | O_RDWR, 0600)) == EPERM);
    CHECK(errno_of(::mknod(other.c_str(), S_IFIFO | 0600, 0)) == EPERM);
    CHECK(errno_of(::mkdir(other.c_str(), 0700)) == EPERM);
    CHECK(errno_of(::symlink("x", other.c_str())) == EPERM);
    CHECK(errno_of(::link(disk.c_str(), other.c_str())) == EPERM);
    CHECK(errno_of(::unlink(disk.c_str())) == EPERM);
    CHECK(errno_of(::rmdir(disk.c_str())) == ENOTDIR);
    CHECK(errno_of(::rename(disk.c_str(), other.c_str())) == EPERM);
    CHECK(errno_of(::rename(disk.c_str(), (mounted.point() / "ram.raw").c_str())) == EPERM);
    CHECK(errno_of(::open(other.c_str(), O_RDONLY)) == ENOENT);
  }
  SECTION("attributes cannot be changed") {
    CHECK(errno_of(::chmod(disk.c_str(), 0644)) == EPERM);
    CHECK(errno_of(::chown(disk.c_str(), 1, 1)) == EPERM);
    CHECK(errno_of(::setxattr(disk.c_str(), "user.a", "b", 1, 0)) == EOPNOTSUPP);
    CHECK(errno_of(::getxattr(disk.c_str(), "user.a", nullptr, 0)) == EOPNOTSUPP);
    CHECK(errno_of(::removexattr(disk.c_str(), "user.a")) == EOPNOTSUPP);
    CHECK(errno_of(::listxattr(disk.c_str(), nullptr, 0)) == EOPNOTSUPP);
    CHECK(errno_of(::utimes(disk.c_str(), nullptr)) == 0);
  }
  SECTION("the size is fixed") {
    CHECK(errno_of(::ftruncate(fd.get(), kSize)) == 0);
    CHECK(errno_of(::ftruncate(fd.get(), kSize - 1)) == EPERM);
    CHECK(errno_of(::ftruncate(fd.get(), kSize + 1)) == EPERM);
    CHECK(errno_of(::truncate(disk.c_str(), 0)) == EPERM);
    CHECK(errno_of(::truncate((mounted.point() / "stats.json").c_str(), 0)) != 0);
    CHECK(errno_of(::open(disk.c_str(), O_RDWR | O_TRUNC)) == EPERM);
    const auto appending = mounted.open("disk.raw", O_WRONLY | O_APPEND);
    CHECK(errno_of(::write(appending.get(), "ab", 2)) == ENOSPC);
    CHECK(errno_of(::pwrite(fd.get(), "ab", 2, kSize)) == ENOSPC);
    CHECK(::pwrite(fd.get(), "ab", 2, kSize - 1) == 1);
    CHECK(errno_of(::fallocate(fd.get(), 0, 0, kSize)) == 0);
    CHECK(errno_of(::fallocate(fd.get(), 0, 0, kSize + 1)) == EOPNOTSUPP);
    CHECK(errno_of(::fallocate(fd.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096)) == EOPNOTSUPP);
  }
  SECTION("read-only files are not opened for writing") {
    const std::string version = mounted.point() / "version.raw";
    const std::string stats = mounted.point() / "stats.json";
    const int denied = ::geteuid() == 0 ? EROFS : EACCES;
    CHECK(errno_of(::open(version.c_str(), O_RDWR)) == denied);
    CHECK(errno_of(::open(version.c_str(), O_WRONLY | O_APPEND)) == denied);
    CHECK(errno_of(::open(stats.c_str(), O_WRONLY)) == denied);
  }
}

TEST_CASE("a mount of versions is read-only as a whole", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted({.size = kSize, .immutable = true});
  const std::string disk = mounted.point() / "disk.raw";
  const std::string other = mounted.point() / "other";
  for (const int flags : {O_RDWR, O_WRONLY, O_WRONLY | O_APPEND, O_RDWR | O_TRUNC}) {
    CHECK(errno_of(::open(disk.c_str(), flags)) == EROFS);
  }
  CHECK(errno_of(::open(other.c_str(), O_CREAT | O_RDWR, 0600)) == EROFS);
  CHECK(errno_of(::mknod(other.c_str(), S_IFREG | 0600, 0)) == EROFS);
  CHECK(errno_of(::unlink(disk.c_str())) == EROFS);
  CHECK(errno_of(::rename(disk.c_str(), other.c_str())) == EROFS);
  CHECK(errno_of(::chmod(disk.c_str(), 0600)) == EROFS);
  CHECK(errno_of(::truncate(disk.c_str(), 0)) == EROFS);
  CHECK(errno_of(::truncate(disk.c_str(), kSize)) == EROFS);
  CHECK(errno_of(::setxattr(disk.c_str(), "user.a", "b", 1, 0)) == EROFS);
  CHECK(errno_of(::removexattr(disk.c_str(), "user.a")) == EROFS);
  CHECK(errno_of(::utimes(disk.c_str(), nullptr)) == EROFS);
  const auto fd = mounted.open("disk.raw", O_RDONLY);
  CHECK(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0) == MAP_FAILED);
  CHECK(errno_of(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)) == EBADF);
}

TEST_CASE("reads at and beyond the end are short, whatever the offset and length", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const int flags = GENERATE(0, O_DIRECT);
  const auto fd = mounted.open("disk.raw", O_RDWR | flags);
  Bytes out(8192);
  CHECK(::pread(fd.get(), out.data(), 0, 0) == 0);
  CHECK(::pread(fd.get(), out.data(), 8192, kSize - 100) == 100);
  CHECK(::pread(fd.get(), out.data(), 8192, kSize) == 0);
  CHECK(::pread(fd.get(), out.data(), 8192, kSize + 5000) == 0);
  constexpr off_t kLast = std::numeric_limits<off_t>::max();
  CHECK(::pread(fd.get(), out.data(), 1, kLast - 1) == 0);
  CHECK(errno_of(::pread(fd.get(), out.data(), 1, -1)) == EINVAL);
  CHECK(::pread(fd.get(), out.data(), 1, kLast) <= 0);
  CHECK(errno_of(::pwrite(fd.get(), out.data(), 1, kLast - 1)) == ENOSPC);

  constexpr std::size_t kHuge = 1U << 30U;
  void* huge = ::mmap(nullptr, kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(huge != MAP_FAILED);
  CHECK(::pread(fd.get(), huge, kHuge, 0) == static_cast<ssize_t>(kSize));
  ::munmap(huge, kHuge);
}

TEST_CASE("a direct read or write of any offset, length and address works", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto fd = mounted.open("disk.raw", O_RDWR | O_DIRECT);
  const Bytes data = test::random_bytes(5001, 8);
  REQUIRE(::pwrite(fd.get(), data.data() + 1, 5000, 511) == 5000);
  CHECK((mounted.content(File::kDisk, 511, 5000) == Bytes(data.begin() + 1, data.end())));
  CHECK((mounted.content(File::kDisk, 0, 511) == Bytes(511)));
  CHECK((mounted.content(File::kDisk, 5511, 511) == Bytes(511)));
  Bytes got(5001);
  REQUIRE(::pread(fd.get(), got.data() + 1, 5000, 511) == 5000);
  CHECK(std::equal(got.begin() + 1, got.end(), data.begin() + 1));
}

TEST_CASE("a punched hole reads as zeros through every kind of access, up to the end and no further", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto fd = mounted.open("disk.raw", O_RDWR);
  const auto direct = mounted.open("disk.raw", O_RDWR | O_DIRECT);
  Mapping mapping(fd.get(), kSize);
  std::ranges::fill(mapping.bytes(), std::uint8_t{7});
  const auto punch = [&](std::uint64_t offset, std::uint64_t length) {
    return errno_of(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                                static_cast<off_t>(length)));
  };
  Bytes model(kSize, 7);
  CHECK(punch(1000, 100000) == 0);
  std::fill_n(model.begin() + 1000, 100000, std::uint8_t{0});
  CHECK(punch(kSize - 5000, 1U << 30U) == 0);
  std::fill_n(model.end() - 5000, 5000, std::uint8_t{0});
  CHECK(punch(kSize + 4096, 4096) == 0);
  CHECK(punch(0, 0) == EINVAL);
  CHECK(punch(4096, static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) == EFBIG);
  CHECK(std::ranges::equal(mapping.bytes(), model));
  Bytes got(kSize);
  REQUIRE(::pread(direct.get(), got.data(), kSize, 0) == static_cast<ssize_t>(kSize));
  CHECK((got == model));
  REQUIRE(::fsync(fd.get()) == 0);
  CHECK((mounted.content(File::kDisk, 0, kSize) == model));
  struct stat after {};
  REQUIRE(::fstat(fd.get(), &after) == 0);
  CHECK(static_cast<std::uint64_t>(after.st_size) == kSize);
}

TEST_CASE("data reaches up to the end of a file and a hole follows", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto fd = mounted.open("disk.raw", O_RDONLY);
  CHECK(::lseek(fd.get(), 5000, SEEK_DATA) == 5000);
  CHECK(::lseek(fd.get(), 5000, SEEK_HOLE) == static_cast<off_t>(kSize));
  CHECK(errno_of(::lseek(fd.get(), kSize, SEEK_DATA)) == ENXIO);
  CHECK(errno_of(::lseek(fd.get(), kSize + 1, SEEK_HOLE)) == ENXIO);
  CHECK(::lseek(fd.get(), 0, SEEK_END) == static_cast<off_t>(kSize));
}

TEST_CASE("a shared mapping's writes reach the image when it is synced", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const Bytes data = test::random_bytes(200000, 3);
  const auto fd = mounted.open("ram.raw", O_RDWR);
  Mapping mapping(fd.get(), kSize);
  std::ranges::copy(data, mapping.bytes().begin() + 12345);
  REQUIRE(::msync(mapping.bytes().data(), kSize, MS_SYNC) == 0);
  CHECK((mounted.content(File::kRam, 12345, data.size()) == data));
}

TEST_CASE("the kernel keeps pages across opens", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  Bytes out(65536);
  for (int i = 0; i < 3; ++i) {
    const auto fd = mounted.open("disk.raw", O_RDONLY);
    REQUIRE(::pread(fd.get(), out.data(), out.size(), 0) == 65536);
    if (i == 0) mounted.set(File::kDisk, Counter::kReads, 0);
  }
  // Read-ahead of the first read may still come in; the range itself is not asked again.
  CHECK(mounted.get(File::kDisk, Counter::kReads) <= 2);
}

TEST_CASE("fsync flushes the image", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto fd = mounted.open("disk.raw", O_RDWR);
  REQUIRE(::fdatasync(fd.get()) == 0);
  CHECK(mounted.get(File::kDisk, Counter::kFlushes) == 1);
}

TEST_CASE("a failing image gives an error, but never for guest memory", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  Bytes out(4096);
  SECTION("a disk's reads and writes fail once and then work") {
    const auto fd = mounted.open("disk.raw", O_RDWR | O_DIRECT);
    mounted.set(File::kDisk, Counter::kFailingReads, 1);
    CHECK(errno_of(::pread(fd.get(), out.data(), out.size(), 0)) == to_errno(ErrorKind::kOffline));
    CHECK(::pread(fd.get(), out.data(), out.size(), 0) == 4096);
    mounted.set(File::kDisk, Counter::kFailingWrites, 1);
    CHECK(errno_of(::pwrite(fd.get(), out.data(), out.size(), 0)) == to_errno(ErrorKind::kOffline));
  }
  SECTION("memory is retried until it works, even through signals") {
    const auto fd = mounted.open("ram.raw", O_RDWR);
    Mapping mapping(fd.get(), kSize);
    mounted.set(File::kRam, Counter::kFailingReads, 3);
    struct sigaction ignore {
    }, before{};
    ignore.sa_handler = [](int) {};
    ::sigaction(SIGALRM, &ignore, &before);
    const itimerval often{{0, 10000}, {0, 10000}}, never{};
    ::setitimer(ITIMER_REAL, &often, nullptr);
    const std::uint8_t value = mapping.bytes()[1000000];
    ::setitimer(ITIMER_REAL, &never, nullptr);
    ::sigaction(SIGALRM, &before, nullptr);
    CHECK(value == 0);
    CHECK(mounted.get(File::kRam, Counter::kFailingReads) == 0);
  }
  SECTION("memory is retried when the daemon itself is out of memory") {
    const auto fd = mounted.open("ram.raw", O_RDWR | O_DIRECT);
    mounted.set(File::kRam, Counter::kFailingAllocations, 2);
    CHECK(::pread(fd.get(), out.data(), out.size(), 0) == 4096);
    CHECK(mounted.get(File::kRam, Counter::kFailingAllocations) == 0);
  }
  SECTION("writes of a shared mapping reach memory even when a write-back failed") {
    const auto fd = mounted.open("ram.raw", O_RDWR);
    Mapping mapping(fd.get(), kSize);
    const Bytes bytes = test::random_bytes(1U << 20U, 1);
    std::ranges::copy(bytes, mapping.bytes().begin());
    mounted.set(File::kRam, Counter::kFailingWrites, 3);
    CHECK(::fsync(fd.get()) == 0);
    CHECK(mounted.get(File::kRam, Counter::kFailingWrites) == 0);
    CHECK((mounted.content(File::kRam, 0, 65536) == Bytes(bytes.begin(), bytes.begin() + 65536)));
    CHECK(mounted.hindrances() == 0);
  }
  SECTION("a hole in memory is punched, however late") {
    const auto fd = mounted.open("ram.raw", O_RDWR);
    mounted.store(File::kRam, 0, test::random_bytes(8192, 1));
    mounted.set(File::kRam, Counter::kFailingWrites, 2);
    CHECK(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192) == 0);
    CHECK((mounted.content(File::kRam, 0, 8192) == Bytes(8192)));
  }
}

TEST_CASE("a waiting write of memory fails when the owner gives the memory up", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  mounted.set(File::kRam, Counter::kFailingWrites, 1U << 30U);
  const auto fd = mounted.open("ram.raw", O_RDWR);
  int result = 0;
  std::jthread writer([&] {
    Mapping mapping(fd.get(), kSize);
    mapping.bytes()[5] = 1;
    result = errno_of(::fsync(fd.get()));
  });
  while (mounted.hindrances() == 0) std::this_thread::yield();
  std::uint8_t byte = 0;
  CHECK(::pread(fd.get(), &byte, 1, 2 << 20) == 1);  // others go on
  mounted.give_up();
  writer.join();
  CHECK(result == EIO);
  CHECK(mounted.hindrances() == 0);
}

TEST_CASE("stats.json is one snapshot for as long as it is open", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto first = mounted.open("stats.json", O_RDONLY);
  const auto second = mounted.open("stats.json", O_RDONLY);
  std::array<char, 64> text{};
  const auto read = [&](const UniqueFd& fd, off_t offset) {
    return std::string(text.data(), static_cast<std::size_t>(::pread(fd.get(), text.data(), text.size(), offset)));
  };
  const std::string one = read(first, 0);
  const std::string two = read(second, 0);
  CHECK(one.starts_with("{\"asked\":"));
  CHECK(one != two);
  CHECK(read(first, 0) == one);
  CHECK(read(first, 9) == one.substr(9));
  CHECK(read(first, 500).empty());
  struct stat attributes {};
  REQUIRE(::fstat(first.get(), &attributes) == 0);
  CHECK(attributes.st_size == 12);
  CHECK(attributes.st_mode == (S_IFREG | 0400U));
  CHECK(mounted.open_files() == 0);
}

TEST_CASE("writers are refused after refuse_writers(), and open files are counted", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const std::string disk = mounted.point() / "disk.raw";
  auto early = mounted.open("disk.raw", O_RDWR);
  mounted.refuse_writers();
  CHECK(errno_of(::open(disk.c_str(), O_RDWR)) == EROFS);
  CHECK(errno_of(::open(disk.c_str(), O_WRONLY | O_APPEND)) == EROFS);
  CHECK(::pwrite(early.get(), "ab", 2, 0) == 2);
  CHECK(mounted.open_files() == 1);
  SECTION("a mapping counts like a descriptor") {
    {
      Mapping mapping(early.get(), 4096);
      early.reset();
      CHECK(mounted.open_files() == 1);
      mapping.bytes()[0] = 'x';
    }
    while (mounted.open_files() != 0) std::this_thread::yield();
    CHECK(mounted.content(File::kDisk, 0, 1).at(0) == 'x');
  }
  SECTION("reading is still allowed") { CHECK(mounted.open("disk.raw", O_RDONLY).get() >= 0); }
  SECTION("until writers are admitted again") {
    mounted.admit_writers();
    CHECK(mounted.open("disk.raw", O_RDWR).get() >= 0);
  }
}

}  // namespace
}  // namespace isr
