#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <functional>

#include "base/file.h"
#include "chunkstore/pack_store.h"
#include "support/bytes.h"

/// What the tests of pack stores share.
namespace isr::test {

inline constexpr std::uint64_t kRecordHeader = 40;

struct Sample {
  explicit Sample(std::uint64_t seed, std::size_t size = 5000)
      : object(test::random_bytes(size, seed)), cid(cid_of(object)) {}
  Bytes object;
  Cid cid;
};

inline std::vector<Sample> samples(std::size_t count, std::size_t size = 5000, std::uint64_t first_seed = 0) {
  std::vector<Sample> all;
  for (std::size_t i = 0; i < count; ++i) all.emplace_back(first_seed + i, size);
  return all;
}

inline std::optional<Bytes> ask(PackStore& store, const Cid& cid) { return store.fetch(cid, Priority::kGuest, {}); }

inline void put_all(PackStore& store, const std::vector<Sample>& all) {
  for (const Sample& sample : all) store.put(sample.cid, sample.object);
}

inline std::size_t count_good(PackStore& store, const std::vector<Sample>& all) {
  return static_cast<std::size_t>(
      std::count_if(all.begin(), all.end(), [&](const Sample& s) { return ask(store, s.cid) == s.object; }));
}
inline std::size_t count_absent(PackStore& store, const std::vector<Sample>& all) {
  return static_cast<std::size_t>(
      std::count_if(all.begin(), all.end(), [&](const Sample& s) { return !ask(store, s.cid); }));
}

inline std::vector<fs::path> packs_of(const fs::path& store) {
  std::vector<fs::path> packs;
  for (const auto& entry : fs::directory_iterator(store / "packs")) packs.push_back(entry.path());
  std::sort(packs.begin(), packs.end());
  return packs;
}

inline void damage(const fs::path& file, std::uint64_t offset, std::size_t count = 1) {
  const auto fd = open_file(file, O_RDWR);
  Bytes bytes(count);
  read_exact_at(fd.get(), bytes, offset, file);
  for (auto& byte : bytes) byte ^= 0x10;
  write_all_at(fd.get(), bytes, offset, file);
}

/// A child process that runs `body` when it is told to, and then dies as by kill -9: no destructor runs. Make it before
/// a cache is opened: a cache has a thread, and a process forked beside it may inherit a lock that nobody gives back.
class KilledProcess {
 public:
  explicit KilledProcess(const std::function<void()>& body) {
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    const UniqueFd told(ends[0]);
    tell_ = UniqueFd(ends[1]);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ != 0) return;
    tell_.reset();
    char go = 0;
    if (::read(told.get(), &go, 1) != 1) ::_exit(1);
    try {
      body();
    } catch (...) {
      ::_exit(1);
    }
    ::raise(SIGKILL);
  }

  void run() {
    REQUIRE(::write(tell_.get(), "g", 1) == 1);
    int status = 0;
    REQUIRE(::waitpid(pid_, &status, 0) == pid_);
    REQUIRE(WIFSIGNALED(status));
  }

 private:
  UniqueFd tell_;
  pid_t pid_ = -1;
};

inline void in_killed_process(const std::function<void()>& body) { KilledProcess(body).run(); }

inline std::uint64_t blocks_of(const fs::path& store) {
  std::uint64_t blocks = 0;
  for (const auto& pack : packs_of(store)) {
    struct stat status {};
    REQUIRE(::stat(pack.c_str(), &status) == 0);
    blocks += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return blocks;
}

inline const PackStoreOptions kSettledOptions{.durable = true};

}  // namespace isr::test
