// Readers, writers, snapshots and settling at once, in this process and in one
// that is killed. Every block of 4 KiB holds the number of the write that made
// it: a read must see a number between the last write that had ended when it began
// and the last that had begun when it ended.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <random>
#include <thread>

#include "image/image_bench.h"

namespace isr {
namespace {

using test::ImageBench;
using test::kStampBlock;

constexpr std::uint64_t kBlocks = 6 * kChunkSize / kStampBlock + 3;
constexpr std::uint64_t kSize = kBlocks * kStampBlock;

/// What is known of each block. One writer a block, so numbers only grow.
struct Known {
  std::atomic<std::uint64_t> begun[kBlocks];
  std::atomic<std::uint64_t> done[kBlocks];
};

/// Where the base of a killed process stands: two slots, the greater number rules. It lies in memory that processes
/// share, so it has no pointers.
struct SavedState {
  struct Slot {
    TreeRoot tree{kSize, {}};
    std::array<TreeRoot, kMaxPatches> patches;
    std::size_t patch_count = 0;
    std::uint64_t void_below = 0;
  };
  std::atomic<std::uint64_t> number;
  Slot slots[2];

  void save(const ImageBench& bench) {
    Slot& slot = slots[(number + 1) % 2];
    slot.tree = bench.base.tree;
    slot.patch_count = bench.base.patches.size();
    std::copy(bench.base.patches.begin(), bench.base.patches.end(), slot.patches.begin());
    slot.void_below = bench.void_below;
    ++number;
  }
  ImageBench open(const fs::path& directory) const {
    const Slot& slot = slots[number % 2];
    const auto end = slot.patches.begin() + static_cast<std::ptrdiff_t>(slot.patch_count);
    return ImageBench(directory, PatchedTree(slot.tree, {slot.patches.begin(), end}), slot.void_below);
  }
};

/// Writes blocks of its own share until stopped.
class StampWriter {
 public:
  StampWriter(Image& image, Known& known, std::uint64_t share, std::uint64_t shares, std::uint64_t seed)
      : image_(image), known_(known), share_(share), shares_(shares), random_(seed) {}

  void step() {
    const std::uint64_t count = random_() % 8 == 0 ? 1 + random_() % 40 : 1;
    // A share is a stretch of blocks, so that a write may span several.
    const std::uint64_t first = share_ * kBlocks / shares_;
    const std::uint64_t end = (share_ + 1) * kBlocks / shares_;
    const std::uint64_t from = first + random_() % (end - first);
    write(from, std::min(count, end - from));
  }

 private:
  void write(std::uint64_t from, std::uint64_t count) {
    Bytes data(count * kStampBlock);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t stamp = known_.begun[from + i] + 1;
      test::put_stamp(from + i, stamp, MutableBytes(data).subspan(i * kStampBlock, kStampBlock));
      known_.begun[from + i] = stamp;
    }
    image_.write(from * kStampBlock, data);
    for (std::uint64_t i = 0; i < count; ++i) known_.done[from + i] = known_.begun[from + i].load();
  }

  Image& image_;
  Known& known_;
  std::uint64_t share_, shares_;
  std::mt19937_64 random_;
};

/// Empty when all is well, else what was seen.
std::string check_blocks(Image& image, const Known& known, std::uint64_t from, std::uint64_t count) {
  std::vector<std::uint64_t> least(count);
  for (std::uint64_t i = 0; i < count; ++i) least[i] = known.done[from + i];
  Bytes out(count * kStampBlock);
  if (image.read(from * kStampBlock, out) != out.size()) return "a short read";
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t most = known.begun[from + i];
    const auto stamp = test::stamp_of(from + i, ByteView(out).subspan(i * kStampBlock, kStampBlock));
    if (!stamp) return "block " + std::to_string(from + i) + " is a mixture";
    if (*stamp < least[i] || *stamp > most) {
      return "block " + std::to_string(from + i) + " is " + std::to_string(*stamp) + ", not " +
             std::to_string(least[i]) + ".." + std::to_string(most);
    }
  }
  return {};
}

void maintain(ImageBench& bench, std::uint64_t choice, SavedState* saved) {
  switch (choice % 5) {
    case 0:
      bench.publish([&] {
        if (saved != nullptr) saved->save(bench);
      });
      break;
    case 1:
      bench.seal_without_sending();
      break;
    case 2:
      bench.image->flush();
      break;
    default:
      bench.journal->roll();
      bench.settle_to(0);
  }
}

template <class T>
struct SharedMemory {
  SharedMemory()
      : value(static_cast<T*>(::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    if (value == MAP_FAILED) throw std::runtime_error("mmap");
    new (value) T();
  }
  ~SharedMemory() { ::munmap(value, sizeof(T)); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  T* value;
};

/// Runs in a process of its own until it is killed.
[[noreturn]] void live(const fs::path& directory, Known& known, SavedState& saved, std::uint64_t seed) {
  try {
    ImageBench bench = saved.open(directory);
    std::vector<std::jthread> writers;
    for (std::uint64_t w = 0; w < 2; ++w) {
      writers.emplace_back([&, w] {
        StampWriter writer(*bench.image, known, w, 2, seed * 2 + w);
        for (;;) writer.step();
      });
    }
    for (std::mt19937_64 random(seed);;) maintain(bench, random(), &saved);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    ::_exit(1);
  }
}

}  // namespace

TEST_CASE("reads during writes, snapshots and settling see no write too early, too late or in part", "[image]") {
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{kSize, {}});
  auto known = std::make_unique<Known>();
  std::atomic<bool> stop{false};
  Sync<std::string> wrong;
  std::vector<std::jthread> threads;
  for (std::uint64_t w = 0; w < 2; ++w) {
    threads.emplace_back([&, w] {
      StampWriter writer(*bench.image, *known, w, 2, w);
      while (!stop) writer.step();
    });
  }
  for (std::uint64_t r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      std::mt19937_64 random(100 + r);
      while (!stop) {
        const std::uint64_t from = random() % kBlocks;
        const std::uint64_t count = std::min<std::uint64_t>(random() % 4 == 0 ? 50 : 1, kBlocks - from);
        std::string found;
        try {
          found = check_blocks(*bench.image, *known, from, count);
        } catch (const std::exception& error) {
          found = error.what();
        }
        if (found.empty()) continue;
        *wrong.lock() = found;
        stop = true;
      }
    });
  }
  std::mt19937_64 random(7);
  for (int i = 0; i < 40 && !stop; ++i) maintain(bench, random(), nullptr);
  stop = true;
  threads.clear();
  CHECK(*wrong.lock() == "");
  CHECK(check_blocks(*bench.image, *known, 0, kBlocks) == "");
  bench.open();
  CHECK(check_blocks(*bench.image, *known, 0, kBlocks) == "");
}

TEST_CASE("flushed writes of a killed process are there, wherever it was killed", "[image]") {
  const TempDirectory temp;
  const SharedMemory<Known> known;
  const SharedMemory<SavedState> saved;
  std::mt19937_64 random(3);
  for (std::uint64_t round = 0; round < 12; ++round) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) live(temp.path(), *known.value, *saved.value, round);
    // Killed after a number of writes, not after a time.
    const std::uint64_t goal = known.value->begun[0] + known.value->begun[kBlocks - 1] + 1 + random() % 60;
    int status = 0;
    while (known.value->begun[0] + known.value->begun[kBlocks - 1] < goal) {
      if (::waitpid(child, &status, WNOHANG) == child) FAIL("the process ended by itself");
      std::this_thread::yield();
    }
    ::kill(child, SIGKILL);
    REQUIRE(::waitpid(child, &status, 0) == child);
    ImageBench bench = saved.value->open(temp.path());
    CHECK(check_blocks(*bench.image, *known.value, 0, kBlocks) == "");
    // A write that had begun may be there or not; from here on it is what it is now.
    Bytes all(kSize);
    bench.image->read(0, all);
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      std::uint64_t stamp = 0;
      std::memcpy(&stamp, all.data() + block * kStampBlock, 8);
      known.value->done[block] = known.value->begun[block] = stamp;
    }
  }
}

}  // namespace isr
