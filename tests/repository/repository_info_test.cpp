#include "repository/repository_info.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "support/memory_store.h"

namespace isr {
namespace {

using test::kind_thrown_by;
using test::MemoryStore;
using test::text_bytes;

/// A store with the faults of those that we were warned of.
class LyingStore : public MemoryStore {
 public:
  enum class Lie { kEveryoneWins, kOverwrites, kForgets, kIgnoresRange };
  explicit LyingStore(Lie lie) : lie_(lie) {}
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    if (lie_ == Lie::kForgets) return MemoryStore::stat(name) || !mark(name) ? PutResult::kExists : PutResult::kCreated;
    const PutResult result = MemoryStore::put_new(name, bytes, stop);
    if (lie_ == Lie::kOverwrites) overwrite(std::string(name), to_bytes(bytes));
    return lie_ == Lie::kEveryoneWins ? PutResult::kCreated : result;
  }
  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    if (lie_ == Lie::kForgets) return std::nullopt;
    if (lie_ == Lie::kIgnoresRange) range.reset();
    return MemoryStore::get(name, range, stop);
  }

 private:
  bool mark(std::string_view name) { return MemoryStore::put_new(name, {}) == PutResult::kCreated; }
  Lie lie_;
};

/// Leaves this process memory for the stacks of two more threads, and at most five that it keeps for reuse.
void allow_few_threads() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t bytes = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) + (20U << 20U);
  const rlimit limit{bytes, bytes};
  if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(3);
}

TEST_CASE("a probe ends when not all of its threads can start", "[repository]") {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(20);
    allow_few_threads();
    MemoryStore store;
    ::_exit(kind_thrown_by([&] { race_store(store); }) == ErrorKind::kIo ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("a new repository can be read back, and cannot be made twice", "[repository]") {
  MemoryStore store;
  const RepositoryInfo made = init_repository(store);
  CHECK(made.id.size() == 32);
  CHECK(read_repository_info(store).id == made.id);
  CHECK(store.blobs().size() == 1);  // the probes are gone
  const auto before = store.blobs();
  CHECK(kind_thrown_by([&] { init_repository(store); }) == ErrorKind::kUsage);
  CHECK((store.blobs() == before));
}

TEST_CASE("one of two processes that make a repository at once wins", "[repository]") {
  const TempDirectory directory;
  std::atomic<int> made{0};
  std::atomic<int> refused{0};
  {
    std::vector<std::jthread> makers;
    for (int i = 0; i < 3; ++i) {
      makers.emplace_back([&] {
        const auto store = make_directory_store(directory.path());
        try {
          init_repository(*store);
          ++made;
        } catch (const Error& error) {
          if (error.kind() == ErrorKind::kUsage) ++refused;
        }
      });
    }
  }
  CHECK(made == 1);
  CHECK(refused == 2);
}

TEST_CASE("a store that would lose updates is refused", "[repository]") {
  using Lie = LyingStore::Lie;
  const std::vector<std::pair<Lie, std::string>> cases = {
      {Lie::kEveryoneWins, "racing writers"},
      {Lie::kOverwrites, "racing writers"},
      {Lie::kForgets, "read after write"},
      {Lie::kIgnoresRange, "range read"},
  };
  for (const auto& [lie, probe] : cases) {
    LyingStore store(lie);
    try {
      init_repository(store);
      FAIL_CHECK("was accepted: " << probe);
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUnsupported);
      CHECK_THAT(error.what(), Catch::Contains(probe));
    }
    CHECK_FALSE(store.stat("isr-repository").has_value());
  }
}

TEST_CASE("a place with other data is not changed", "[repository]") {
  SECTION("other data in the store") {
    MemoryStore store;
    store.put_new("objects/ab/abc", text_bytes("x"));
    CHECK(kind_thrown_by([&] { init_repository(store); }) == ErrorKind::kUnsupported);
  }
  SECTION("a file of the name, with other content") {
    MemoryStore store;
    store.put_new("isr-repository", text_bytes("hello"));
    CHECK(kind_thrown_by([&] { init_repository(store); }) == ErrorKind::kUnsupported);
  }
  const TempDirectory directory;
  SECTION("a file instead of a directory") {
    std::ofstream(directory.path() / "file") << "x";
    CHECK(kind_thrown_by([&] { prepare_store_location(directory.path() / "file"); }) == ErrorKind::kUnsupported);
  }
  SECTION("a directory with foreign files") {
    std::ofstream(directory.path() / "letter.txt") << "x";
    CHECK(kind_thrown_by([&] { prepare_store_location(directory.path()); }) == ErrorKind::kUnsupported);
  }
  SECTION("a loop of symlinks") {
    fs::create_symlink("loop", directory.path() / "loop");
    CHECK(kind_thrown_by([&] { prepare_store_location(directory.path() / "loop"); }) == ErrorKind::kIo);
  }
  SECTION("a fresh file system, an interrupted attempt and an absent directory are accepted") {
    fs::create_directory(directory.path() / "lost+found");
    fs::create_directory(directory.path() / "probe");
    prepare_store_location(directory.path());
    prepare_store_location(directory.path() / "a" / "b");
    CHECK(fs::is_directory(directory.path() / "a" / "b"));
    prepare_store_location("https://example.org/isr");
  }
  SECTION("a repository of isr is accepted, so that init can report that it exists") {
    const auto store = make_directory_store(directory.path());
    init_repository(*store);
    prepare_store_location(directory.path());
    CHECK(kind_thrown_by([&] { init_repository(*store); }) == ErrorKind::kUsage);
  }
}

TEST_CASE("the marker of a repository is read strictly", "[repository]") {
  const std::string good = R"({"format":"isr1-repository","id":"000102030405060708090a0b0c0d0e0f","chunk_size":131072})"
                           "\n";
  CHECK(parse_repository_info(text_bytes(good)).id == "000102030405060708090a0b0c0d0e0f");
  CHECK((read_file(std::string(ISR_GOLDEN_DIR) + "/repository/v1", 4096) == text_bytes(good)));

  const auto kind = [](const std::string& text) {
    return kind_thrown_by([&] { parse_repository_info(text_bytes(text)); });
  };
  const std::string id = R"("id":"000102030405060708090a0b0c0d0e0f")";
  CHECK(kind(R"({"format":"isr2-repository",)" + id + R"(,"chunk_size":131072})") == ErrorKind::kUnsupported);
  CHECK(kind(R"({"format":"isr1-repository",)" + id +
             R"(,"chunk_size":65536})"
             "\n") == ErrorKind::kUnsupported);
  for (const std::string& junk :
       {std::string(), std::string("{}"), std::string("[]"), std::string("<html>"), " " + good, good + good,
        good.substr(0, good.size() - 1), std::string(5000, ' '), std::string(4000, '['),
        R"({"format":"isr1-repository",)" + id +
            R"(,"chunk_size":-1})"
            "\n",
        R"({"format":"isr1-repository",)" + id +
            R"(,"chunk_size":131072.0})"
            "\n",
        R"({"format":"isr1-repository",)" + id +
            R"(,"chunk_size":131072,"x":1})"
            "\n",
        R"({"format":"isr1-repository","format":"isr1-repository",)" + id +
            R"(,"chunk_size":131072})"
            "\n"}) {
    INFO(junk.substr(0, 100));
    CHECK(kind(junk) == ErrorKind::kCorrupt);
  }
  MemoryStore empty;
  CHECK(kind_thrown_by([&] { read_repository_info(empty); }) == ErrorKind::kNotFound);
}

}  // namespace
}  // namespace isr
