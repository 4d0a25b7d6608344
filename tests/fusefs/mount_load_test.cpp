// What a mount bears: many handles, large requests, and locks as QEMU takes them.

#include <fmt/format.h>
#include <sys/resource.h>

#include <fstream>
#include <thread>

#include "mounted_image.h"

namespace isr {
namespace {

using test::can_mount;
using test::Counter;
using test::exit_code_of;
using test::File;
using test::in_child;
using test::MountedImage;
using test::Signal;

/// Bytes of memory that a process occupies.
std::uint64_t resident_bytes(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}

/// Sanitizers keep what was freed, and more beside it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kMemoryFactor = 16;
#else
constexpr std::uint64_t kMemoryFactor = 1;
#endif

TEST_CASE("a hundred thousand open handles take almost no memory, and are counted and given back", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  constexpr std::uint64_t kHandles = 100000;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  const std::uint64_t each = std::min<std::uint64_t>(limit.rlim_max - 100, kHandles);
  const std::uint64_t before = resident_bytes(mounted.server());
  REQUIRE(before > 0);

  Signal opened, done;
  std::vector<pid_t> holders;
  for (std::uint64_t left = kHandles; left > 0; left -= std::min(left, each)) {
    holders.push_back(in_child([&, count = std::min(left, each)] {
      ::setrlimit(RLIMIT_NOFILE, &limit);
      const std::string path = mounted.point() / "disk.raw";
      bool good = true;
      for (std::uint64_t i = 0; i < count; ++i) good = ::open(path.c_str(), O_RDONLY | O_CLOEXEC) >= 0 && good;
      return opened.give() && done.take() && good ? 0 : 1;
    }));
  }
  for (std::size_t i = 0; i < holders.size(); ++i) REQUIRE(opened.take());
  CHECK(mounted.open_files() == kHandles);
  CHECK(resident_bytes(mounted.server()) < before + kMemoryFactor * (8U << 20U));
  for (std::size_t i = 0; i < holders.size(); ++i) REQUIRE(done.give());
  for (const pid_t holder : holders) CHECK(exit_code_of(holder) == 0);
  while (mounted.open_files() != 0) std::this_thread::yield();  // releases are not waited for by close()
}

/// 1 GiB of addresses over 2 MiB of memory.
class WideBuffer {
 public:
  static constexpr std::size_t kSize = 1U << 30U;
  WideBuffer() : memory_(::memfd_create("buffer", MFD_CLOEXEC)) {
    if (!memory_ || ::ftruncate(memory_.get(), kStep) != 0) throw_errno("memfd", errno);
    start_ = ::mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start_ == MAP_FAILED) throw_errno("mmap", errno);
    for (std::size_t at = 0; at < kSize; at += kStep) {
      ::mmap(static_cast<char*>(start_) + at, kStep, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_.get(), 0);
    }
  }
  ~WideBuffer() { ::munmap(start_, kSize); }
  WideBuffer(const WideBuffer&) = delete;
  WideBuffer& operator=(const WideBuffer&) = delete;
  void* data() { return start_; }

 private:
  static constexpr std::size_t kStep = 2U << 20U;
  UniqueFd memory_;
  void* start_ = nullptr;
};

TEST_CASE("one read of a gibibyte is answered in full with bounded memory", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted({.size = (3ULL << 30U) + 5});
  WideBuffer buffer;
  const auto fd = mounted.open("disk.raw", O_RDONLY | O_DIRECT);
  CHECK(::pread(fd.get(), buffer.data(), WideBuffer::kSize, 12345) == static_cast<ssize_t>(WideBuffer::kSize));
  CHECK(::pread(fd.get(), buffer.data(), WideBuffer::kSize, 3LL << 30U) == 5);
  CHECK(resident_bytes(mounted.server()) < kMemoryFactor * (128U << 20U));
}

/// Of a child; it can still be waited for.
bool ends_in_time(pid_t pid) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  siginfo_t ended{};
  while (::waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

TEST_CASE("waiting page faults delay neither other requests nor the death of a waiting process", "[fusefs]") {
  if (!can_mount()) return;
  constexpr std::size_t kStep = 1U << 20U;
  constexpr std::size_t kWaiting = 50;  // more than the threads that a mount keeps
  const MountedImage mounted({.size = kWaiting * kStep});
  mounted.set(File::kRam, Counter::kFailingReads, 1U << 30U);
  const pid_t waiter = in_child([&] {
    test::Mapping mapping(mounted.open("ram.raw", O_RDWR).get(), kWaiting * kStep);
    // So that a fault waits for the answer itself. One that waits for read-ahead is killable in any case.
    if (::madvise(mapping.bytes().data(), kWaiting * kStep, MADV_RANDOM) != 0) return 1;
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kWaiting; ++i) {
      threads.emplace_back([&byte = mapping.bytes()[i * kStep]] { byte = 1; });
    }
    return ::pause();
  });
  while (mounted.get(File::kRam, Counter::kReads) < 16) std::this_thread::yield();

  const pid_t other = in_child([&] {
    const auto fd = mounted.open("disk.raw", O_RDWR | O_DIRECT);
    Bytes data(4096, 5);
    if (::pwrite(fd.get(), data.data(), data.size(), 0) != 4096 || ::fsync(fd.get()) != 0) return 1;
    return ::pread(fd.get(), data.data(), data.size(), 4096) == 4096 ? 0 : 2;
  });
  CHECK(ends_in_time(other));
  ::kill(waiter, SIGKILL);
  CHECK(ends_in_time(waiter));
  mounted.set(File::kRam, Counter::kFailingReads, 0);  // whatever still waits can go on
  CHECK(exit_code_of(other) == 0);
  CHECK(exit_code_of(waiter) == 128 + SIGKILL);
}

TEST_CASE("waiting direct reads delay no direct write and no flush", "[fusefs]") {
  if (!can_mount()) return;
  constexpr std::size_t kWaiting = 200;  // far more than the background requests of FUSE's defaults, or of 64
  const MountedImage mounted({.size = kWaiting * 4096});
  mounted.set(File::kRam, Counter::kFailingReads, 1U << 30U);
  const pid_t waiter = in_child([&] {
    const auto fd = mounted.open("ram.raw", O_RDWR | O_DIRECT);
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kWaiting; ++i) {
      threads.emplace_back([&fd, i] {
        alignas(4096) std::array<std::uint8_t, 4096> page{};
        [[maybe_unused]] const ssize_t got = ::pread(fd.get(), page.data(), page.size(), static_cast<off_t>(i * 4096));
      });
    }
    return ::pause();
  });
  // Those that the mount takes at once have failed once, and wait; the kernel holds the others, if there are any.
  const auto all_wait = [&] { return mounted.get(File::kRam, Counter::kReads) >= static_cast<std::int64_t>(kWaiting); };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!all_wait() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();

  const pid_t other = in_child([&] {
    const auto fd = mounted.open("disk.raw", O_RDWR | O_DIRECT);
    alignas(4096) std::array<std::uint8_t, 4096> page{};
    page.fill(5);
    return ::pwrite(fd.get(), page.data(), page.size(), 0) == 4096 && ::fsync(fd.get()) == 0 ? 0 : 1;
  });
  CHECK(ends_in_time(other));
  ::kill(waiter, SIGKILL);
  mounted.set(File::kRam, Counter::kFailingReads, 0);
  CHECK(exit_code_of(other) == 0);
  CHECK(exit_code_of(waiter) == 128 + SIGKILL);
}

/// What QEMU does to a raw image that it opens for writing (block/file-posix.c): a shared lock on a byte for each
/// permission that it takes and for each that it denies to others, then a look whether anybody has the opposite.
/// 0, or EAGAIN when the image is in use.
int lock_as_qemu(int fd) {
  constexpr off_t kPermissions = 100;
  constexpr off_t kDenials = 200;
  const auto control = [fd](int command, short type, off_t at) {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = at;
    lock.l_len = 1;
    if (::fcntl(fd, command, &lock) != 0) return errno;
    return command == F_OFD_GETLK && lock.l_type != F_UNLCK ? EAGAIN : 0;
  };
  for (const off_t permission : {0, 1, 3}) {  // consistent read, write, resize
    if (const int failure = control(F_OFD_SETLK, F_RDLCK, kPermissions + permission)) return failure;
  }
  for (const off_t permission : {1, 3}) {
    if (const int failure = control(F_OFD_SETLK, F_RDLCK, kDenials + permission)) return failure;
  }
  for (const off_t permission : {0, 1, 3}) {
    if (const int failure = control(F_OFD_GETLK, F_WRLCK, kDenials + permission)) return failure;
  }
  for (const off_t permission : {1, 3}) {
    if (const int failure = control(F_OFD_GETLK, F_WRLCK, kPermissions + permission)) return failure;
  }
  return 0;
}

TEST_CASE("locks keep a second QEMU from an image until the first has closed it", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto second = [&](const std::string& name) {
    return exit_code_of(in_child([&] { return lock_as_qemu(mounted.open(name, O_RDWR).get()); }));
  };
  auto first = mounted.open("disk.raw", O_RDWR);
  REQUIRE(lock_as_qemu(first.get()) == 0);
  CHECK(second("disk.raw") == EAGAIN);
  CHECK(second("ram.raw") == 0);
  first.reset();
  CHECK(second("disk.raw") == 0);
}

TEST_CASE("exclusive locks of byte ranges do not overlap between processes", "[fusefs]") {
  if (!can_mount()) return;
  const MountedImage mounted;
  const auto fd = mounted.open("disk.raw", O_RDWR);
  const auto try_lock = [](int file, off_t at) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = at;
    lock.l_len = 10;
    return ::fcntl(file, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
  };
  REQUIRE(try_lock(fd.get(), 100) == 0);
  const auto other = [&](off_t at) {
    return exit_code_of(in_child([&] { return try_lock(mounted.open("disk.raw", O_RDWR).get(), at); }));
  };
  CHECK(other(109) == EAGAIN);
  CHECK(other(110) == 0);
}

}  // namespace
}  // namespace isr
