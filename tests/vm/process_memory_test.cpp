#include "vm/process_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "base/file.h"
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

TEST_CASE("a process's own pages are those present or swapped that are of no file", "[vm]") {
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

TEST_CASE("what a child changed in a private mapping is found and read to the page", "[vm]") {
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

TEST_CASE("runs are compared to the byte", "[vm]") {
  using Runs = std::vector<MemoryRange>;
  const Runs a = {{0, 4}, {6, 8}, {10, 20}, {30, 31}};
  const Runs b = {{2, 7}, {12, 13}, {15, 40}};
  CHECK((common_ranges(a, b) == Runs{{2, 4}, {6, 7}, {12, 13}, {15, 20}, {30, 31}}));
  CHECK((ranges_without(a, b) == Runs{{0, 2}, {7, 8}, {10, 12}, {13, 15}}));
  CHECK((ranges_without(b, a) == Runs{{4, 6}, {20, 30}, {31, 40}}));
  CHECK((common_ranges(a, a) == a));
  CHECK(ranges_without(a, a).empty());
  CHECK((ranges_without(a, {}) == a));
  CHECK(common_ranges(a, {}).empty());
}

TEST_CASE("pages that are not tracked are not said to be unwritten", "[vm]") {
  auto* const memory = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  const MemoryRange range{address_of(memory), address_of(memory) + kPageSize};
  CHECK((kind_thrown([&] { take_written_pages(::getpid(), range); }) == ErrorKind::kIo));
  ::munmap(memory, kPageSize);
}
