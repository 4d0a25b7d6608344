// Settling under what makes it hard: power cuts in the middle, chunks that are
// written all the time, chunks that cannot be fetched, disks that are discarded whole.

#include <catch2/catch.hpp>
#include <random>

#include "base/error.h"
#include "image/image_bench.h"
#include "image/journal_bench.h"
#include "support/error_kind.h"

namespace isr {
namespace {

using test::ImageBench;
using test::kStampBlock;
using test::OpenedImage;

constexpr std::uint64_t kBlocks = 5 * kChunkSize / kStampBlock;

/// A settled store that tells when it is synced: the objects of a settling are
/// durable then, their records not yet written.
class HookedStore : public PackStore {
 public:
  HookedStore(std::shared_ptr<PackStore> inner, std::function<void()> on_sync)
      : inner_(std::move(inner)), on_sync_(std::move(on_sync)) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    return inner_->fetch(cid, priority, std::move(stop));
  }
  std::string describe() const override { return inner_->describe(); }
  bool contains(const Cid& cid) override { return inner_->contains(cid); }
  void put(const Cid& cid, ByteView object) override { inner_->put(cid, object); }
  void sync() override {
    inner_->sync();
    on_sync_();
  }
  std::uint64_t failed_syncs() const override { return inner_->failed_syncs(); }
  void remove(std::span<const Cid> cids) override { inner_->remove(cids); }
  std::vector<Cid> all() override { return inner_->all(); }
  Stats stats() override { return inner_->stats(); }

 private:
  std::shared_ptr<PackStore> inner_;
  std::function<void()> on_sync_;
};

/// A settled store whose first sync comes just after another thread's, which failed and took all with it.
class StoreOfTwoThreads : public HookedStore {
 public:
  explicit StoreOfTwoThreads(const std::shared_ptr<PackStore>& inner) : HookedStore(inner, [] {}) {}
  void sync() override {
    if (failed_ == 0) {
      ++failed_;
      remove(all());
    }
    HookedStore::sync();
  }
  std::uint64_t failed_syncs() const override { return failed_; }

 private:
  std::uint64_t failed_ = 0;
};

/// An image of stamped blocks that knows which of its bytes a power cut may take.
class PowerCutBench {
 public:
  explicit PowerCutBench(std::uint64_t seed)
      : random_(seed),
        bench_(temp_.path() / "here", TreeRoot{kBlocks * kStampBlock, {}}),
        latest_(kBlocks),
        flushed_(kBlocks) {}

  void step() {
    switch (random_() % 8) {
      case 0:
        bench_.image->flush();
        everything_is_synced();
        break;
      case 1:
        bench_.journal->roll();
        break;
      case 2: {
        HookedStore hooked(bench_.settled, [&] {
          if (random_() % 2 == 0) write_some();
          note_collected();
          cut_and_check();
        });
        bench_.settle_into(hooked, 0);
        break;
      }
      case 3:
        for (const SegmentPtr& segment : bench_.journal->full_segments()) bench_.overlay->move_records(segment);
        break;
      case 4:
        if (random_() % 4 == 0) publish();
        break;
      default:
        write_some();
    }
    note_collected();
    cut_and_check();
  }

 private:
  void write_some() {
    const std::uint64_t from = random_() % kBlocks;
    const std::uint64_t count = std::min<std::uint64_t>(random_() % 6 == 0 ? 40 : 1 + random_() % 3, kBlocks - from);
    Bytes data(count * kStampBlock);
    for (std::uint64_t i = 0; i < count; ++i) {
      test::put_stamp(from + i, ++latest_[from + i], MutableBytes(data).subspan(i * kStampBlock, kStampBlock));
    }
    bench_.image->write(from * kStampBlock, data);
  }

  void publish() {
    bench_.publish([&] {
      base_ = bench_.base;
      void_below_ = bench_.void_below;
    });
    everything_is_synced();
  }

  fs::path journal() const { return bench_.directory / "journal"; }

  void everything_is_synced() {
    flushed_ = latest_;
    synced_.clear();
    for (const fs::path& segment : test::segments_of(journal())) synced_[segment.filename()] = fs::file_size(segment);
  }

  /// A segment was deleted: everything was synced before, and nothing was written since.
  void note_collected() {
    for (const auto& [name, size] : synced_) {
      if (!fs::exists(journal() / name)) {
        const auto flushed = flushed_;
        everything_is_synced();
        flushed_ = flushed;
        return;
      }
    }
  }

  /// Loses some of what was not synced, sector by sector.
  void cut(const fs::path& segment, std::uint64_t synced) {
    const std::uint64_t size = fs::file_size(segment);
    if (size <= synced) return;
    if (random_() % 3 == 0) {
      fs::resize_file(segment, synced + random_() % (size - synced + 1));
      return;
    }
    const UniqueFd fd = open_file(segment, O_RDWR);
    for (std::uint64_t lost = random_() % 4; lost > 0; --lost) {
      const std::uint64_t sector = (synced + random_() % (size - synced)) / 512 * 512;
      const std::uint64_t from = std::max(sector, synced);
      write_all_at(fd.get(), Bytes(std::min(sector + 512, size) - from), from, segment);
    }
  }

  void cut_and_check() {
    const fs::path copy = temp_.path() / "copy";
    test::copy_directory(journal(), copy);
    for (const fs::path& segment : test::segments_of(copy)) {
      const auto known = synced_.find(segment.filename());
      cut(segment, known == synced_.end() ? 0 : known->second);
    }
    const OpenedImage opened(copy, base_.size() == 0 ? bench_.base : base_, void_below_, bench_.reader);
    Bytes all(kBlocks * kStampBlock);
    opened.image->read(0, all);
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      const auto stamp = test::stamp_of(block, ByteView(all).subspan(block * kStampBlock, kStampBlock));
      INFO("block " << block << " flushed " << flushed_[block] << " latest " << latest_[block]);
      REQUIRE(stamp.has_value());
      REQUIRE(*stamp >= flushed_[block]);
      REQUIRE(*stamp <= latest_[block]);
    }
  }

  TempDirectory temp_;
  std::mt19937_64 random_;
  ImageBench bench_;
  PatchedTree base_;
  std::uint64_t void_below_ = 0;
  std::vector<std::uint64_t> latest_, flushed_;
  std::map<fs::path, std::uint64_t> synced_;
};

/// Knows nothing and can ask nobody.
class OfflineSource : public ObjectSource {
 public:
  std::optional<Bytes> fetch(const Cid&, Priority, std::stop_token) override {
    throw Error(ErrorKind::kOffline, "offline");
  }
  std::string describe() const override { return "nothing"; }
};

}  // namespace

TEST_CASE("after a power cut at any moment of settling all flushed data is there", "[image]") {
  PowerCutBench bench(GENERATE(1U, 2U, 3U, 4U));
  for (int step = 0; step < 80; ++step) bench.step();
}

TEST_CASE("a moved replacement does not hide later writes over it", "[image]") {
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{2 * kChunkSize, {}});
  Bytes model = test::random_bytes(2 * kChunkSize, 1);
  bench.image->write(0, model);
  bench.journal->roll();
  bench.settle_to(0);
  bench.journal->roll();
  const Bytes over = test::random_bytes(700, 2);
  bench.image->write(300, over);
  std::copy(over.begin(), over.end(), model.begin() + 300);
  bench.journal->roll();
  bench.overlay->move_records(bench.journal->full_segments().front());
  CHECK(bench.journal->collect() > 0);
  bench.open();
  Bytes out(model.size());
  bench.image->read(0, out);
  CHECK((out == model));
}

TEST_CASE("a chunk that is written all the time does not keep old segments alive", "[image]") {
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{20 * kChunkSize, {}});
  Bytes model = test::random_bytes(20 * kChunkSize, 1);
  bench.image->write(0, model);
  bench.image->flush();
  bench.journal->roll();
  HookedStore hooked(bench.settled, [&] {
    bench.image->write(1000, Bytes(16, 0x77));
    std::fill_n(model.begin() + 1000, 16, std::uint8_t{0x77});
  });
  bench.settle_into(hooked, 0);
  CHECK(bench.journal->size_bytes() < 2 * kChunkSize);
  for (int again = 0; again < 2; ++again) {
    Bytes out(model.size());
    bench.image->read(0, out);
    CHECK((out == model));
    bench.open();
  }
}

TEST_CASE("writes that cannot be settled while offline stay in the journal", "[image]") {
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{40 * kChunkSize, {}});
  const Bytes model = test::random_bytes(40 * kChunkSize, 1);
  bench.image->write(0, model);
  bench.publish();
  bench.reader = std::make_shared<ChunkReader>(std::make_shared<OfflineSource>(), ReaderOptions{1U << 20U, 16, 1});
  bench.open();
  bench.image->write(5000, test::random_bytes(100, 2));                    // its rest is not here
  bench.image->write(kChunkSize, test::random_bytes(20 * kChunkSize, 3));  // nothing else is needed
  bench.journal->roll();
  bench.settle_to(0);
  CHECK(bench.journal->size_bytes() < 30'000);
  Bytes out(100);
  bench.image->read(5000, out);
  CHECK((out == test::random_bytes(100, 2)));
  CHECK(bench.overlay->pieces_of(0).size() == 1);
  CHECK(bench.overlay->pieces_of(1).empty());
}

TEST_CASE("a segment that cannot be settled does not block the others", "[image]") {
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{40 * kChunkSize, {}});
  bench.image->write(0, test::random_bytes(40 * kChunkSize, 1));
  bench.publish();
  bench.reader = std::make_shared<ChunkReader>(std::make_shared<OfflineSource>(), ReaderOptions{1U << 20U, 16, 1});
  bench.open();
  for (std::uint64_t chunk = 0; chunk < 40; ++chunk) bench.image->write(chunk * kChunkSize + 7, Bytes(60'000, 1));
  bench.journal->roll();
  const std::uint64_t needed = bench.journal->size_bytes();
  SECTION("of whole chunks") {
    bench.image->write(0, test::random_bytes(30 * kChunkSize, 3));
    bench.journal->roll();
    bench.settle_to(0);
    CHECK(bench.journal->size_bytes() < needed / 2);
  }
  SECTION("of partly written ones that were written repeatedly") {
    for (std::uint64_t chunk = 0; chunk < 20; ++chunk) {
      for (int again = 0; again < 4; ++again) bench.image->write(chunk * kChunkSize + 7, Bytes(60'000, 2));
      if (chunk % 5 == 4) bench.journal->roll();
    }
    bench.settle_to(0);
    CHECK(bench.journal->size_bytes() < 2 * needed);
  }
  Bytes out(60'000);
  bench.image->read(39 * kChunkSize + 7, out);
  CHECK((out == Bytes(60'000, 1)));
}

TEST_CASE("local data is bounded while an upload hangs and the guest rewrites its disk", "[image]") {
  constexpr std::uint64_t kDisk = 32 * kChunkSize;
  constexpr std::uint64_t kLimit = 2 * kDisk;
  constexpr std::uint64_t kSlack = kDisk / 4;  // a segment that is not full, headers, records of sealed chunks
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{kDisk, {}});
  SettledSweep sweep;
  bench.image->write(0, test::random_bytes(kDisk, 1));
  const std::uint64_t frozen = bench.overlay->freeze();
  SealContext context = bench.context();
  context.sweep = &sweep;
  const SealedImage sealed = seal_frozen(context, *bench.overlay, bench.base);
  bench.overlay->absorb_frozen(sealed.chunks, frozen);
  Bytes model(kDisk);
  bench.image->read(0, model);
  std::uint64_t greatest = 0;
  std::mt19937_64 random(5);
  for (std::uint64_t round = 0; round < 60; ++round) {
    const std::uint64_t length = kDisk / 8;
    const std::uint64_t offset = random() % (kDisk - length);
    const Bytes data = test::random_bytes(length, 10 + round);
    bench.image->write(offset, data);
    std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
    bench.journal->roll();
    // Half of the time as if the guest were calm.
    bench.settle_to(round % 2 == 0 ? 0 : kLimit);
    bench.journal->sync();
    std::set<Cid> needed;
    bench.overlay->add_objects(needed);
    for (int twice = 0; twice < 2; ++twice) sweep.sweep(*bench.settled, needed);
    greatest = std::max(greatest, bench.journal->size_bytes() + bench.settled->stats().bytes);
  }
  CHECK(greatest < 2 * kDisk + kLimit + kSlack);
  Bytes out(kDisk);
  bench.image->read(0, out);
  CHECK((out == model));
  for (const ClearRef& object : sealed.new_objects) CHECK(bench.settled->contains(object.cid));
  bench.overlay->forget_below(frozen);
  // The publish fails: nothing needs its objects any more.
  CHECK_FALSE(sweep.has_more());
  sweep.release();
  std::set<Cid> needed;
  bench.overlay->add_objects(needed);
  for (int most = 0; most < 3 && sweep.has_more(); ++most) sweep.sweep(*bench.settled, needed);
  CHECK_FALSE(sweep.has_more());
  for (const ClearRef& object : sealed.new_objects) {
    CHECK(bench.settled->contains(object.cid) == needed.contains(object.cid));
  }
}

TEST_CASE("a failed sync of one thread fails every thread that sealed into the same store meanwhile", "[image]") {
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{8 * kChunkSize, {}});
  const Bytes data = test::random_bytes(2 * kChunkSize, 3);
  bench.image->write(kChunkSize, data);
  bench.image->flush();
  StoreOfTwoThreads shared(bench.settled);
  const SealContext context{bench.reader, shared, test::domain_secret(), 2};
  SECTION("a publish") {
    bench.overlay->freeze();
    CHECK(test::kind_thrown([&] { seal_frozen(context, *bench.overlay, bench.base); }) == ErrorKind::kIo);
    bench.overlay->thaw();
  }
  SECTION("settling") {
    bench.journal->roll();
    const std::vector<SettleImage> images{{*bench.overlay, bench.image}};
    CHECK(test::kind_thrown([&] { settle_some(context, *bench.journal, images); }) == ErrorKind::kIo);
  }
  bench.journal->sync();
  bench.journal->collect();
  Bytes out(data.size());
  bench.image->read(kChunkSize, out);
  CHECK((out == data));
}

TEST_CASE("settling stops when most of the journal is needed", "[image]") {
  const TempDirectory temp;
  ImageBench bench(temp.path(), TreeRoot{1ULL << 40U, {}});
  bench.image->discard(0, 1ULL << 40U);
  const std::uint64_t size = bench.journal->size_bytes();
  for (int i = 0; i < 3; ++i) {
    bench.journal->roll();
    bench.settle_to(0);
  }
  CHECK(bench.journal->size_bytes() == size);
}

TEST_CASE("a discarded disk of 1 TiB is sealed without naming its chunks", "[image]") {
  const TempDirectory temp;
  const std::uint64_t size = (1ULL << 40U) + 5000;
  ImageBench bench(temp.path(), TreeRoot{size, {}});
  for (const std::uint64_t at : {std::uint64_t{0}, size / 3, size - 5000}) bench.image->write(at, Bytes(5000, 0x11));
  bench.publish();
  REQUIRE_FALSE(bench.base.tree.root.is_zero());
  bench.image->discard(4096, size - 4096);
  bench.image->write(size / 2, Bytes(100, 0x22));
  bench.overlay->freeze();
  const DirtyChunks dirty = bench.overlay->frozen_chunks();
  CHECK(dirty.chunks.size() <= 3);
  CHECK(dirty.zeros.size() == 2);
  bench.overlay->thaw();
  bench.publish();
  std::map<std::uint64_t, ChunkRef> found;
  for_each_chunk(*bench.reader, bench.base.tree, [&](std::uint64_t chunk, const ChunkRef& ref) { found[chunk] = ref; });
  CHECK(found.size() == 2);
  Bytes out(5000);
  bench.image->read(0, out);
  CHECK((ByteView(out).first(4096)[4095] == 0x11 && is_zero(ByteView(out).subspan(4096))));
  bench.image->read(size - 5000, out);
  CHECK(is_zero(out));
}

}  // namespace isr
