// Random walks over all that changes an overlay: writes, discards, settling, moves, publishes that fail, succeed or
// get no answer, restarts. After each step the image is compared with a plain array of bytes.
//
//   ISR_MODEL_SEEDS=40 image_test "an image is what*"     more of them than an ordinary test run takes

#include <catch2/catch.hpp>
#include <cstdlib>
#include <random>

#include "image/image_bench.h"

namespace isr {
namespace {

using test::OpenedImage;

constexpr std::uint64_t kSize = 3 * kChunkSize + 20'000;
constexpr int kSteps = 1500;

/// A settled store in memory: the walks are about what overlays say, not about disks.
class MemoryStore : public PackStore {
 public:
  std::optional<Bytes> fetch(const Cid& cid, Priority, std::stop_token) override {
    auto objects = objects_.lock();
    const auto found = objects->find(cid);
    return found == objects->end() ? std::nullopt : std::optional(found->second);
  }
  std::string describe() const override { return "memory"; }
  bool contains(const Cid& cid) override { return objects_.lock()->contains(cid); }
  void put(const Cid& cid, ByteView object) override { objects_.lock()->emplace(cid, to_bytes(object)); }
  void sync() override {}
  void remove(std::span<const Cid> cids) override {
    for (const Cid& cid : cids) objects_.lock()->erase(cid);
  }
  std::vector<Cid> all() override {
    std::vector<Cid> all;
    for (const auto& [cid, object] : *objects_.lock()) all.push_back(cid);
    return all;
  }
  Stats stats() override { return {}; }

 private:
  Sync<std::map<Cid, Bytes>> objects_;
};

/// What is settled here, and what was uploaded.
class BothStores : public ObjectSource {
 public:
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    if (auto object = settled.fetch(cid, priority, stop)) return object;
    return uploaded.fetch(cid, priority, stop);
  }
  std::string describe() const override { return "both"; }

  MemoryStore settled, uploaded;
};

/// The objects on this host: all that are settled, and uploaded ones as far as a cache has them. Of eight requests for
/// these, `missing` fail.
class HereSource : public ObjectSource {
 public:
  HereSource(std::shared_ptr<BothStores> stores, std::uint64_t seed)
      : stores_(std::move(stores)), random_(std::mt19937_64(seed)) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    if (auto object = stores_->settled.fetch(cid, priority, stop)) return object;
    if ((*random_.lock())() % 8 < missing) return std::nullopt;
    return stores_->uploaded.fetch(cid, priority, stop);
  }
  std::string describe() const override { return "here"; }

  std::atomic<std::uint64_t> missing{0};  ///< of 8 objects

 private:
  std::shared_ptr<BothStores> stores_;
  Sync<std::mt19937_64> random_;
};

class Walk {
 public:
  explicit Walk(std::uint64_t seed) : random_(seed), model_(kSize) {
    reader_ = std::make_shared<ChunkReader>(stores_, ReaderOptions{1U << 20U, 16, 1});
    here_ = std::make_shared<HereSource>(stores_, seed);
    saved_.base.tree.size = kSize;
    open();
  }

  void step() {
    switch (below(24)) {
      case 0:
      case 1:
        discard();
        break;
      case 2:
      case 3:
        opened_.journal->roll();
        break;
      case 4:
      case 5:
      case 6:
        settle();
        break;
      case 7:
      case 8:
      case 9:
        publish_on();
        break;
      case 10:
        if (below(3) == 0) restart();
        break;
      default:
        write();
    }
    check();
  }

 private:
  struct Saved {
    PatchedTree base;
    std::uint64_t void_below = 0;
  };
  struct Publication : Saved {
    std::optional<SealedImage> sealed;
    bool has_happened = false;
  };

  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

  Extent somewhere() {
    const std::uint64_t offset = below(kSize);
    const std::uint64_t longest = below(6) == 0 ? 2 * kChunkSize : 6'000;
    return {offset, std::min(1 + below(longest), kSize - offset)};
  }

  void write() {
    const Extent where = somewhere();
    const Bytes data = test::random_bytes(where.length, random_());
    opened_.image->write(where.offset, data);
    std::copy(data.begin(), data.end(), model_.begin() + static_cast<std::ptrdiff_t>(where.offset));
  }

  void discard() {
    const Extent where = somewhere();
    opened_.image->discard(where.offset, where.length);
    std::fill_n(model_.begin() + static_cast<std::ptrdiff_t>(where.offset), where.length, std::uint8_t{0});
  }

  SealContext context(SettledSweep* keeper = nullptr) {
    constexpr std::uint64_t kMissing[] = {0, 0, 1, 4, 8};
    here_->missing = kMissing[below(std::size(kMissing))];
    const auto reader = std::make_shared<ChunkReader>(here_, ReaderOptions{0, 1, 1});
    return {reader, stores_->settled, test::domain_secret(), 1, keeper, {}, below(2) == 0};
  }

  void settle() {
    const SettleImage one{*opened_.overlay, opened_.image};
    settle_some(context(), *opened_.journal, {&one, 1});
    sweep();
  }

  void sweep() {
    opened_.journal->sync();
    std::set<Cid> needed;
    opened_.overlay->add_objects(needed);
    sweep_->sweep(stores_->settled, needed);
  }

  void publish_on() {
    if (!publication_) {
      publication_.emplace();
      publication_->void_below = opened_.overlay->freeze();
    } else if (!publication_->sealed) {
      seal();
    } else {
      end_publish();
    }
  }

  void seal() {
    if (below(4) == 0) {  // what is missing cannot be fetched
      opened_.overlay->thaw();
      publication_.reset();
      return;
    }
    publication_->sealed = seal_frozen(context(sweep_.get()), *opened_.overlay, saved_.base);
    publication_->base = publication_->sealed->content;
    opened_.overlay->absorb_frozen(publication_->sealed->chunks, publication_->void_below);
  }

  void end_publish() {
    const Publication publication = *publication_;
    publication_.reset();
    const std::uint64_t answer = below(4);
    if (answer != 0) {
      pending_ = publication;
      pending_->has_happened = answer > 1 || below(2) == 0;
      for (const ClearRef& object : publication.sealed->new_objects) upload(object.cid);
    }
    if (answer > 1) {
      saved_ = publication;
      pending_.reset();
      opened_.image->adopt(saved_.base, [&] { opened_.overlay->forget_below(saved_.void_below); });
      opened_.journal->collect();
    }
    sweep_->release();
    sweep();
  }

  void upload(const Cid& cid) {
    const auto object = stores_->settled.fetch(cid, Priority::kUpload, {});
    if (object) return stores_->uploaded.put(cid, *object);
    REQUIRE(stores_->uploaded.contains(cid));
  }

  void restart() {
    publication_.reset();
    sweep_ = std::make_unique<SettledSweep>();
    const bool online = below(4) != 0;
    if (online && pending_ && pending_->has_happened) {
      saved_.base = pending_->base;
      saved_.void_below = std::max(saved_.void_below, pending_->void_below);
      pending_.reset();
    }
    open();
  }

  void open() {
    opened_ = {};
    opened_ = OpenedImage(temp_.path() / "journal", saved_.base, saved_.void_below, reader_);
  }

  void check() {
    Bytes all(kSize);
    opened_.image->read(0, all);
    if (all == model_) return;
    FAIL("first difference at byte " << std::mismatch(all.begin(), all.end(), model_.begin()).first - all.begin());
  }

  TempDirectory temp_;
  std::mt19937_64 random_;
  std::shared_ptr<BothStores> stores_ = std::make_shared<BothStores>();
  std::shared_ptr<HereSource> here_;
  std::shared_ptr<ChunkReader> reader_;
  OpenedImage opened_;
  std::unique_ptr<SettledSweep> sweep_ = std::make_unique<SettledSweep>();
  Saved saved_;
  std::optional<Publication> publication_;
  std::optional<Publication> pending_;
  Bytes model_;
};

}  // namespace

TEST_CASE("an image has the bytes that were written to it, whatever happened to its publishes", "[image]") {
  const char* wanted = std::getenv("ISR_MODEL_SEEDS");  // NOLINT(concurrency-mt-unsafe)
  const std::uint64_t seeds = wanted != nullptr ? std::stoull(wanted) : 4;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    Walk walk(seed);
    for (int step = 0; step < kSteps; ++step) {
      INFO("seed " << seed << ", step " << step);
      walk.step();
    }
  }
}

}  // namespace isr
