#include "vm/process_memory.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "base/file.h"
#include "base/whole_file.h"
#include "support/error_kind.h"

using namespace isr;
using test::kind_thrown;

namespace {

constexpr std::uint64_t kPresent = 1ULL << 63U;
constexpr std::uint64_t kSwapped = 1ULL << 62U;
constexpr std::uint64_t kFile = 1ULL << 61U;

/// A child that lives until the end of the test, with our memory as it was.
struct Child {
  Child() : pid(::fork()) {
    if (pid == 0) {
      for (;;) ::pause();
    }
  }
  ~Child() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  pid_t pid;
};

std::uint64_t address_of(const void* at) { return reinterpret_cast<std::uint64_t>(at); }

}  // namespace

TEST_CASE("maps are read line by line, whatever their paths are", "[vm]") {
  const auto areas = parse_maps(
      "7f0000000000-7f0000002000 rw-p 00000000 00:2a 3                          /run/isr/a name with - and :\n"
      "7f0000002000-7f0000003000 ---p 00000000 00:00 0 \n"
      "junk\n"
      "7f0000003000-7f0000004000 r--s 00001000 fd:01 18446744073709551615 /b\n"
      "7f0000004000-7f0000005000 r--");
  REQUIRE(areas.size() == 3);
  CHECK((areas[0].range == MemoryRange{0x7f0000000000, 0x7f0000002000}));
  CHECK((areas[0].readable && !areas[0].shared));
  CHECK((areas[0].device == 0x2a && areas[0].inode == 3));
  CHECK((!areas[1].readable && areas[1].device == 0 && areas[1].inode == 0));
  CHECK((areas[2].shared && areas[2].inode == ~0ULL));
}

TEST_CASE("a process's own pages are the present or swapped ones that belong to no file", "[vm]") {
  CHECK(own_pages({}, 0).empty());
  const std::vector<std::uint64_t> entries = {kPresent, kPresent | kFile, 0,        kSwapped, kPresent | 1234,
                                              kFile,    kSwapped | kFile, kPresent, kPresent};
  const auto runs = own_pages(entries, 0x10000);
  CHECK((runs == std::vector<MemoryRange>{{0x10000, 0x11000}, {0x13000, 0x15000}, {0x17000, 0x19000}}));
}

TEST_CASE("runs are cut and grouped without losing or moving a byte", "[vm]") {
  const std::vector<MemoryRange> runs = {{0x1000, 0x2000}, {0x8000, 0x10000}, {0x20000, 0x21000}};
  const auto batches = batches_of(runs, 0x3000);
  REQUIRE(batches.size() == 4);
  CHECK((batches[0] == std::vector<MemoryRange>{{0x1000, 0x2000}, {0x8000, 0xa000}}));
  CHECK((batches[1] == std::vector<MemoryRange>{{0xa000, 0xd000}}));
  CHECK((batches[2] == std::vector<MemoryRange>{{0xd000, 0x10000}}));
  CHECK((batches[3] == std::vector<MemoryRange>{{0x20000, 0x21000}}));
  CHECK(batches_of({}, 0x3000).empty());

  std::vector<MemoryRange> scattered;
  for (std::uint64_t page = 0; page < 3000; ++page)
    scattered.push_back({2 * page * kPageSize, (2 * page + 1) * kPageSize});
  std::size_t ranges = 0;
  for (const auto& batch : batches_of(scattered, 1ULL << 30U)) {
    CHECK(batch.size() <= 1024);  // what the kernel takes in one call
    ranges += batch.size();
  }
  CHECK(ranges == scattered.size());
}

TEST_CASE("pages that a child changed in a private mapping are found and read", "[vm]") {
  const TempDirectory directory;
  const auto path = directory.path() / "file";
  constexpr std::size_t kPages = 64;
  const Bytes below(kPages * kPageSize, 7);
  replace_file(path, below);
  const UniqueFd fd = open_file(path, O_RDWR);
  auto* const memory =
      static_cast<std::uint8_t*>(::mmap(nullptr, below.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0));
  REQUIRE(memory != MAP_FAILED);
  const std::uint64_t begin = address_of(memory);
  CHECK(std::count(memory, memory + 8 * kPageSize, 7) == 8 * kPageSize);  // read, not changed
  memory[3 * kPageSize] = 1;
  memory[4 * kPageSize + 17] = 2;
  memory[63 * kPageSize + 4095] = 3;
  {
    const Child child;
    const auto areas = read_maps(child.pid);
    const auto area = std::find_if(areas.begin(), areas.end(), [&](const auto& a) { return a.range.begin == begin; });
    REQUIRE(area != areas.end());
    struct stat info {};
    REQUIRE(::fstat(fd.get(), &info) == 0);
    CHECK((area->inode == info.st_ino && area->device == info.st_dev && !area->shared));

    const auto runs = read_own_pages(child.pid, {begin, begin + below.size()});
    CHECK((runs == std::vector<MemoryRange>{{begin + 3 * kPageSize, begin + 5 * kPageSize},
                                            {begin + 63 * kPageSize, begin + 64 * kPageSize}}));
    Bytes read(3 * kPageSize);
    read_process(child.pid, runs, read);
    CHECK((std::equal(read.begin(), read.begin() + 2 * kPageSize, memory + 3 * kPageSize)));
    CHECK((std::equal(read.begin() + 2 * kPageSize, read.end(), memory + 63 * kPageSize)));

    const MemoryRange nowhere{kPageSize, 2 * kPageSize};
    CHECK((kind_thrown([&] { read_process(child.pid, {&nowhere, 1}, read); }) == ErrorKind::kIo));
  }
  ::munmap(memory, below.size());
}

TEST_CASE("untracked pages are not reported as unwritten", "[vm]") {
  auto* const memory = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  const MemoryRange range{address_of(memory), address_of(memory) + kPageSize};
  CHECK((kind_thrown([&] { take_own_written_pages(::getpid(), range); }) == ErrorKind::kIo));
  ::munmap(memory, kPageSize);
}

namespace {

/// As guest_memory.c does; -1 where the kernel cannot.
int track_writes(MemoryRange range) {
  constexpr std::uint64_t kAsync = 1U << 15U;
  constexpr std::uint64_t kUnpopulated = 1U << 13U;
  const int fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kAsync | kUnpopulated;
  uffdio_register area{};
  area.range = {range.begin, range.size()};
  area.mode = UFFDIO_REGISTER_MODE_WP;
  if (fd >= 0 && ::ioctl(fd, UFFDIO_API, &api) == 0 && ::ioctl(fd, UFFDIO_REGISTER, &area) == 0) return fd;
  ::close(fd);
  return -1;
}

}  // namespace

TEST_CASE("tracking lists written pages as own, and leaves out pages that were never written", "[vm]") {
  const TempDirectory directory;
  constexpr std::size_t kPages = 2048;
  replace_file(directory.path() / "file", Bytes(kPages * kPageSize, 7));
  const UniqueFd file = open_file(directory.path() / "file", O_RDWR);
  const bool of_a_file = GENERATE(true, false);
  CAPTURE(of_a_file);
  auto* const memory = static_cast<volatile std::uint8_t*>(::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                                                                  MAP_PRIVATE | (of_a_file ? 0 : MAP_ANONYMOUS),
                                                                  of_a_file ? file.get() : -1, 0));
  REQUIRE(memory != MAP_FAILED);
  auto* const start = const_cast<std::uint8_t*>(memory);
  ::madvise(start, kPages * kPageSize, MADV_RANDOM);
  ::madvise(start, kPages * kPageSize, MADV_NOHUGEPAGE);
  const MemoryRange range{address_of(start), address_of(start) + kPages * kPageSize};
  const UniqueFd tracker(track_writes(range));
  if (!tracker) {
    WARN("this kernel does not track what is written");
    return;
  }
  const auto write = [&](std::size_t page) { memory[page * kPageSize] = 1; };
  std::uint8_t seen = 0;
  const auto read = [&](std::size_t page) { seen = static_cast<std::uint8_t>(seen + memory[page * kPageSize]); };
  const auto taken = [&] {
    std::vector<std::size_t> pages;
    for (const MemoryRange& run : take_own_written_pages(::getpid(), range)) {
      for (std::uint64_t at = run.begin; at < run.end; at += kPageSize) pages.push_back((at - range.begin) / kPageSize);
    }
    return pages;
  };
  using Pages = std::vector<std::size_t>;
  write(3);
  write(1000);
  if (of_a_file) read(50);  // of anonymous memory, this is a page of zeros of its own
  CHECK((taken() == Pages{3, 1000}));
  CHECK(taken().empty());
  write(1000);
  write(1001);
  if (of_a_file) read(51);
  CHECK((taken() == Pages{1000, 1001}));
  ::madvise(start + 1000 * kPageSize, kPageSize, MADV_DONTNEED);  // given back
  CHECK(taken().empty());
  if (of_a_file) read(1000);
  CHECK(taken().empty());
  write(1000);
  CHECK((taken() == Pages{1000}));
  ::munmap(start, kPages * kPageSize);
}

TEST_CASE("present pages are listed whether they are the process's own or the file's", "[vm]") {
  const TempDirectory directory;
  replace_file(directory.path() / "file", Bytes(8 * kPageSize, 7));
  const UniqueFd file = open_file(directory.path() / "file", O_RDWR);
  auto* const memory = static_cast<volatile std::uint8_t*>(
      ::mmap(nullptr, 8 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0));
  REQUIRE(memory != MAP_FAILED);
  auto* const start = const_cast<std::uint8_t*>(memory);
  ::madvise(start, 8 * kPageSize, MADV_RANDOM);
  const MemoryRange range{address_of(start), address_of(start) + 8 * kPageSize};
  CHECK(present_pages(::getpid(), range).empty());
  memory[2 * kPageSize] = 1;
  memory[7 * kPageSize] = 1;
  const auto page = [&](std::uint64_t n) {
    return MemoryRange{range.begin + n * kPageSize, range.begin + (n + 1) * kPageSize};
  };
  CHECK((present_pages(::getpid(), range) == std::vector<MemoryRange>{page(2), page(7)}));
  const std::uint8_t seen = memory[4 * kPageSize];
  CHECK(seen == 7);
  const auto present = present_pages(::getpid(), range);  // the kernel may map what lies around, too
  CHECK(std::find(present.begin(), present.end(), page(4)) != present.end());
  ::munmap(start, 8 * kPageSize);
}
