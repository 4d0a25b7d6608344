#include "base/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <latch>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/file_bench.h"
#include "base/thread_pool.h"
#include "support/bytes.h"
#include "support/error_kind.h"

using namespace isr;
using test::forbid_exclusive_rename;
using test::forbid_hard_links;
using test::mode_of;
using test::names_in;

namespace {

constexpr std::size_t kLimit = 1 << 20;

/// Runs before each fsync() of a regular file by the calling thread.
thread_local std::function<void()> before_sync;

}  // namespace

/// In the place of the C library's.
extern "C" int fsync(int fd) {
  struct stat status {};
  if (before_sync && ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) before_sync();
  return static_cast<int>(::syscall(SYS_fsync, fd));
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

  SECTION("even when it fails") {
    fs::create_directory(dir.path() / "d");
    CHECK((test::kind_thrown([&] { replace_file(dir.path() / "d", as_bytes("x")); }) == ErrorKind::kIo));
    CHECK((names_in(dir.path()) == std::set<std::string>{"d", "x"}));
    CHECK((test::kind_thrown([&] { replace_file(dir.path() / "d/", as_bytes("x")); }) == ErrorKind::kIo));
    CHECK((test::kind_thrown([&] { replace_file(dir.path() / "..", as_bytes("x")); }) == ErrorKind::kIo));
  }
  SECTION("with a name of the greatest length") {
    const auto longest = dir.path() / std::string(255, 'n');
    replace_file(longest, as_bytes("x"));
    CHECK((create_file(longest, {}) == CreateResult::kExists));
  }
  SECTION("and when many replace it at once, the bytes of one are there whole") {
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
