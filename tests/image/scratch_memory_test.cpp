// Guest memory under a scratch layer: settled into chunks, frozen for a checkpoint, given up.
#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "image/model_bench.h"
#include "support/error_kind.h"

namespace isr {

namespace {

using Bench = test::ModelBench;

Key secret() { return test::domain_secret(); }

constexpr std::uint64_t kSize = 5 * kChunkSize + 12288 + 512;

/// Memory over a base of which a chunk was changed before the VM started, with a model of its bytes.
struct ScratchBench : Bench {
  explicit ScratchBench(std::uint64_t seed) : Bench(kChunkSize * 4), model(kChunkSize * 4), rng(seed) {
    image->write(0, test::random_bytes(kChunkSize * 2, 12));
    publish();
    const SealedObject changed = seal_chunk(test::random_bytes(kChunkSize, 13), secret());
    settled->put(changed.ref.cid, changed.bytes);
    overlay->set_chunk(1, changed.ref);
    image->read(0, model);
    scratch = make_scratch_overlay(path(), kChunkSize * 4, overlay);
    memory = std::make_shared<Image>("memory", base, reader, scratch);
  }

  void change_some() {
    for (int step = 0; step < 60; ++step) {
      const std::uint64_t offset = rng() % (kChunkSize * 4 - 20'000);
      const std::uint64_t length = 1 + rng() % 20'000;
      const auto at = model.begin() + static_cast<std::ptrdiff_t>(offset);
      if (step % 7 == 0) {
        memory->discard(offset, length);
        std::fill_n(at, length, std::uint8_t{0});
      } else {
        const Bytes data = test::random_bytes(length, rng());
        memory->write(offset, data);
        std::copy(data.begin(), data.end(), at);
      }
    }
  }

  Bytes read(Image& from) const {
    Bytes out(model.size());
    from.read(0, out);
    return out;
  }

  /// A new run over what the last one left.
  void resume() {
    scratch = make_scratch_overlay(path(), model.size(), overlay);
    memory = std::make_shared<Image>("memory", base, reader, scratch);
  }

  void freeze() {
    frozen_at = overlay->freeze();
    scratch->freeze();
  }

  /// As a session does once memory is published.
  void publish_sealed(const SealedImage& sealed) {
    base = sealed.content;
    memory->adopt(base, [&] {
      overlay->forget_below(frozen_at);
      scratch->drop_frozen();
    });
    overlay->thaw();
  }

  Bytes model;
  std::mt19937 rng;
  std::shared_ptr<ScratchOverlay> scratch;
  std::shared_ptr<Image> memory;
  std::uint64_t frozen_at = 0;
};

}  // namespace

TEST_CASE("memory under a scratch layer reads like a plain file and settles into chunks", "[image]") {
  Bench bench(kChunkSize * 4);
  bench.image->write(0, test::random_bytes(kChunkSize * 2, 12));
  bench.publish();
  Bytes model(kChunkSize * 4);
  bench.image->read(0, model);
  auto scratch = make_scratch_overlay(bench.path(), kChunkSize * 4, bench.overlay);
  auto memory = std::make_shared<Image>("memory", bench.base, bench.reader, scratch);
  std::mt19937 rng(5);
  for (int step = 0; step < 200; ++step) {
    const std::uint64_t offset = rng() % (kChunkSize * 4 - 20'000);
    const std::uint64_t length = 1 + rng() % 20'000;
    if (step % 7 == 0) {
      memory->discard(offset, length);
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), length, std::uint8_t{0});
    } else {
      const Bytes data = test::random_bytes(length, rng());
      memory->write(offset, data);
      std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
    }
  }
  Bytes out(model.size());
  memory->read(0, out);
  CHECK((out == model));
  settle_memory(bench.context(), *memory, *scratch, *bench.overlay, *bench.journal);
  bench.image->read(0, out);
  CHECK((out == model));
  bench.open();
  bench.image->read(0, out);
  CHECK((out == model));
}

TEST_CASE("settling memory reads the rest of a chunk only where much of it changed", "[image]") {
  constexpr std::uint64_t kChunks = 40;
  Bench bench(kChunkSize * kChunks);
  bench.image->write(0, test::random_bytes(kChunkSize * kChunks, 13));
  bench.publish();
  auto scratch = make_scratch_overlay(bench.path(), kChunkSize * kChunks, bench.overlay);
  auto memory = std::make_shared<Image>("memory", bench.base, bench.reader, scratch);
  Bytes page(4096);
  memory->read(0, page);  // the tree's pages are here now
  const auto fetched = [&] { return bench.stats.tier("settled").hits.load(); };
  const auto before = fetched();
  memory->write(3 * kChunkSize, test::random_bytes(2 * kChunkSize, 14));
  memory->discard(9 * kChunkSize, kChunkSize);
  memory->write(20 * kChunkSize + 4096, test::random_bytes(kChunkSize / 2, 15));
  memory->write(25 * kChunkSize + 4096, page);
  memory->discard(30 * kChunkSize, 4096);
  CHECK(fetched() == before);
  settle_memory(bench.context(), *memory, *scratch, *bench.overlay, *bench.journal);
  CHECK(fetched() == before + 1);
}

TEST_CASE("memory is kept without the absent chunks of which it has changed a part", "[image]") {
  constexpr std::uint64_t kSize = kChunkSize * 5 - 8192;
  Bench bench(kSize);
  bench.image->write(0, test::random_bytes(kSize, 13));
  bench.publish();
  const SealedObject replaced = seal_chunk(test::random_bytes(kChunkSize, 15), bench.context().domain_secret);
  bench.settled->put(replaced.ref.cid, replaced.bytes);
  bench.overlay->set_chunk(1, replaced.ref);
  auto scratch = make_scratch_overlay(bench.path(), kSize, bench.overlay);
  Image memory("memory", bench.base, bench.reader, scratch);
  memory.write(4096, test::random_bytes(8192, 1));                   // in the middle
  memory.write(kChunkSize, test::random_bytes(4096, 2));             // the first page of one that was replaced
  memory.write(3 * kChunkSize - 4096, test::random_bytes(8192, 3));  // the last, and the first of the next
  memory.discard(2 * kChunkSize, 4096);
  memory.write(kSize - 4096, test::random_bytes(4096, 4));  // the last of all
  Bytes model(kSize);
  memory.read(0, model);

  SourceStats stats;
  const auto nothing = std::make_shared<ChunkReader>(open_stack({}, stats), ReaderOptions{1U << 20U, 16, 2});
  Image here("memory", bench.base, nothing, scratch);
  settle_memory(bench.context(), here, *scratch, *bench.overlay, *bench.journal);
  Bytes out(kSize);
  bench.image->read(0, out);
  CHECK((out == model));
  bench.open();
  bench.image->read(0, out);
  CHECK((out == model));
}

TEST_CASE("a checkpoint has memory as it was at the freeze, while memory changes further", "[image]") {
  enum class End { kPublished, kGivenUp, kGivenUpByHalves };
  ScratchBench bench(6);
  for (const End end : {End::kPublished, End::kGivenUp, End::kPublished, End::kGivenUp, End::kGivenUp,
                        End::kGivenUpByHalves, End::kPublished}) {
    bench.change_some();
    bench.freeze();
    const Bytes then = bench.model;
    bench.change_some();
    const SealedImage sealed = seal_frozen(bench.context(), *bench.scratch, bench.base);
    Image checkpoint("checkpoint", sealed.content, bench.reader, nullptr);
    CHECK((bench.read(checkpoint) == then));
    CHECK((bench.read(*bench.memory) == bench.model));
    if (end == End::kPublished) {
      bench.publish_sealed(sealed);
    } else {
      bench.overlay->thaw();
      if (end == End::kGivenUp) bench.scratch->thaw();  // else the next freeze does it
    }
    CHECK((bench.read(*bench.memory) == bench.model));
  }
  bench.change_some();
  settle_memory(bench.context(), *bench.memory, *bench.scratch, *bench.overlay, *bench.journal);
  bench.image->adopt(bench.base, [] {});
  CHECK((bench.read(*bench.image) == bench.model));
}

TEST_CASE("memory reads right in each step of a checkpoint over changes that an earlier run left below", "[image]") {
  ScratchBench bench(8);
  for (int round = 0; round < 6; ++round) {
    bench.change_some();
    settle_memory(bench.context(), *bench.memory, *bench.scratch, *bench.overlay, *bench.journal);
    bench.resume();
    bench.change_some();
    bench.freeze();
    bench.change_some();
    const SealedImage sealed = seal_frozen(bench.context(), *bench.scratch, bench.base);
    bench.journal->roll();
    bench.settle_to(0);  // must not seal what lies below the scratch layer's bytes
    bench.base = sealed.content;
    bench.memory->adopt(bench.base, [&] {
      CHECK((bench.read(*bench.memory) == bench.model));
      bench.image->adopt(bench.base, [&] { bench.overlay->forget_below(bench.frozen_at); });
      CHECK((bench.read(*bench.memory) == bench.model));
      bench.scratch->drop_frozen();
    });
    CHECK((bench.read(*bench.memory) == bench.model));
    bench.overlay->thaw();
    CHECK((bench.read(*bench.memory) == bench.model));
  }
  settle_memory(bench.context(), *bench.memory, *bench.scratch, *bench.overlay, *bench.journal);
  bench.void_below = bench.frozen_at;
  bench.open();
  CHECK((bench.read(*bench.image) == bench.model));
}

TEST_CASE("after a checkpoint of memory only later changes are dirty", "[image]") {
  ScratchBench bench(7);
  bench.change_some();
  bench.freeze();
  const SealedImage sealed = seal_frozen(bench.context(), *bench.scratch, bench.base);
  bench.publish_sealed(sealed);
  CHECK(bench.scratch->dirty_chunks().empty());
  CHECK_FALSE(bench.overlay->is_dirty());
  bench.memory->write(kChunkSize + 4096, Bytes(4096, 1));
  bench.freeze();
  CHECK((bench.scratch->frozen_chunks().chunks == std::set<std::uint64_t>{1}));
}

TEST_CASE("writes and reads are correct while a checkpoint is given up", "[image]") {
  ScratchBench bench(9);
  for (int round = 0; round < 20; ++round) {
    bench.change_some();
    bench.overlay->freeze();
    bench.scratch->freeze();
    bench.change_some();
    bench.overlay->thaw();
    std::atomic<bool> done{false};
    std::jthread thaw([&] {
      bench.scratch->thaw();
      done = true;
    });
    do {
      bench.change_some();
      CHECK((bench.read(*bench.memory) == bench.model));
    } while (!done);
    thaw.join();
    CHECK((bench.read(*bench.memory) == bench.model));
  }
}

TEST_CASE("asking for the frozen layer is a kBug when nothing is frozen", "[image]") {
  ScratchBench bench(8);
  const auto expect_bug = [](FrozenChanges& changes) {
    Bytes out(1);
    CHECK(test::kind_thrown([&] { changes.frozen_chunks(); }) == ErrorKind::kBug);
    CHECK(test::kind_thrown([&] { changes.read_frozen(0, out); }) == ErrorKind::kBug);
    CHECK(test::kind_thrown([&] { changes.frozen_replaced(0); }) == ErrorKind::kBug);
    CHECK(test::kind_thrown([&] { changes.frozen_has_bytes(0); }) == ErrorKind::kBug);
  };
  expect_bug(*bench.overlay);
  bench.overlay->freeze();
  expect_bug(*bench.scratch);
}

}  // namespace isr
