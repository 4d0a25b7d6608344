// A boot pack over an image whose own chunks no source has: what is read came from the pack.

#include "image/hot_pages.h"

#include <catch2/catch.hpp>

#include "image/chunk_fill.h"
#include "image/image.h"
#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/keeping_source.h"
#include "support/memory_overlay.h"
#include "support/memory_source.h"

namespace isr {
namespace {

using test::kind_thrown;
using test::MemorySource;

constexpr std::uint64_t kChunks = 40;

Key secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

/// An image of random bytes and a pack of some of its pages, in another order.
struct Packed {
  explicit Packed(std::size_t pages = 100) {
    content = test::random_bytes(kChunks * kChunkSize, 3);
    image = store(content);
    BootHead head{{{"other", {}}, {"memory", image.root.digest}}, {}};
    for (std::size_t i = 0; i < pages; ++i) head.order.pages.push_back({1, (i * 37 + 5) % (kChunks * 32)});
    head.order.chunks = {{1, 3}, {1, 1}};
    bytes = encode_boot_head(head);
    for (const BootPlace& page : head.order.pages) {
      const auto from = content.begin() + static_cast<std::ptrdiff_t>(page.number * kBootPageSize);
      bytes.insert(bytes.end(), from, from + kBootPageSize);
    }
    pages_ = head.order.pages;
    pack = store(bytes);
  }

  TreeRoot store(Bytes plain) const {
    const std::uint64_t size = plain.size();
    plain.resize(chunk_count(size) * kChunkSize);
    ChunkReader nothing(source, {});
    std::map<std::uint64_t, ChunkRef> changes;
    const auto keep = [&](const SealedObject& object) { source->store(object.ref.cid, object.bytes); };
    for (std::uint64_t i = 0; i < chunk_count(size); ++i) {
      const SealedObject sealed = seal_chunk(ByteView(plain).subspan(i * kChunkSize, kChunkSize), secret());
      keep(sealed);
      changes[i] = sealed.ref;
    }
    return update_tree(nothing, {size, {}}, changes, secret(), keep);
  }

  std::uint64_t page_of(std::size_t i) const { return pages_[i].number; }
  ByteView original(std::uint64_t page) const { return ByteView(content).subspan(page * kBootPageSize, kBootPageSize); }
  std::vector<ChunkRef> refs(const TreeRoot& tree) const {
    std::vector<ChunkRef> out;
    ChunkReader all(source, {});
    for_each_chunk(all, tree, [&](std::uint64_t, const ChunkRef& ref) { out.push_back(ref); });
    return out;
  }

  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("memory");
  Bytes content, bytes;
  TreeRoot image, pack;
  std::vector<BootPlace> pages_;
};

/// One of the objects cannot be had now.
class OutOfReach : public ObjectSource {
 public:
  OutOfReach(SourcePtr inner, const Cid& cid) : inner_(std::move(inner)), cid_(cid) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    if (cid == cid_) throw Error(ErrorKind::kOffline, "out of reach");
    return inner_->fetch(cid, priority, std::move(stop));
  }
  std::string describe() const override { return "far"; }

 private:
  SourcePtr inner_;
  Cid cid_;
};

bool reads(Image& image, std::uint64_t offset, ByteView expected) {
  Bytes out(expected.size());
  return image.read(offset, out) == out.size() && std::equal(out.begin(), out.end(), expected.begin());
}

}  // namespace

TEST_CASE("pages of a boot pack are read without their own chunks", "[image]") {
  Packed packed;
  const auto reader = std::make_shared<ChunkReader>(packed.source, ReaderOptions{});
  const auto hot = std::make_shared<HotPages>(*reader, packed.pack, std::stop_token());
  Image image("memory", packed.image, reader, nullptr);
  image.set_hot_pages({hot, 1});
  const std::size_t before = packed.source->fetches();
  for (std::size_t i = 0; i < packed.pages_.size(); ++i) {
    REQUIRE(reads(image, packed.page_of(i) * kBootPageSize, packed.original(packed.page_of(i))));
  }
  CHECK(packed.source->fetches() - before <= hot->chunks());
  CHECK(image.counters().hot_pages == packed.pages_.size());
  SECTION("and a larger read takes the rest from the tree") {
    CHECK(reads(image, 1000, ByteView(packed.content).subspan(1000, 3 * kChunkSize)));
  }
  SECTION("only for the image from which they were taken") {
    Bytes out(kBootPageSize);
    CHECK_FALSE(hot->read(0, packed.page_of(0) * kBootPageSize, out));
  }
}

TEST_CASE("a boot pack never hides data that was written, replaced or published after it was made", "[image]") {
  Packed packed;
  const auto reader = std::make_shared<ChunkReader>(packed.source, ReaderOptions{});
  const auto hot = std::make_shared<HotPages>(*reader, packed.pack, std::stop_token());
  const auto overlay = std::make_shared<test::MemoryOverlay>();
  Image image("memory", packed.image, reader, overlay);
  image.set_hot_pages({hot, 1});
  const std::uint64_t page = packed.page_of(0);
  const Bytes other = test::random_bytes(kChunkSize, 9);
  SECTION("bytes in the overlay") {
    image.write(page * kBootPageSize, ByteView(other).first(kBootPageSize));
    CHECK(reads(image, page * kBootPageSize, ByteView(other).first(kBootPageSize)));
  }
  SECTION("a chunk that replaces the base's") {
    const SealedObject sealed = seal_chunk(other, secret());
    packed.source->store(sealed.ref.cid, sealed.bytes);
    overlay->replace(page * kBootPageSize / kChunkSize, sealed.ref);
    const std::uint64_t within = page * kBootPageSize % kChunkSize;
    CHECK(reads(image, page * kBootPageSize, ByteView(other).subspan(within, kBootPageSize)));
  }
  SECTION("another base") {
    Bytes changed = packed.content;
    std::copy(other.begin(), other.end(), changed.begin() + static_cast<std::ptrdiff_t>(page * kBootPageSize));
    image.adopt(packed.store(changed), [] {});
    CHECK(reads(image, page * kBootPageSize, ByteView(changed).subspan(page * kBootPageSize, kBootPageSize)));
  }
}

TEST_CASE("reads of a boot pack during a publish show no page that the publish has replaced", "[image]") {
  Packed packed;
  const auto reader = std::make_shared<ChunkReader>(packed.source, ReaderOptions{});
  const auto hot = std::make_shared<HotPages>(*reader, packed.pack, std::stop_token());
  const auto overlay = std::make_shared<test::MemoryOverlay>();
  Image image("memory", packed.image, reader, overlay);
  const std::uint64_t offset = packed.page_of(0) * kBootPageSize;
  const std::uint64_t chunk = offset / kChunkSize;
  const Bytes other = test::random_bytes(kChunkSize, 9);
  Bytes changed = packed.content;
  std::copy(other.begin(), other.end(), changed.begin() + static_cast<std::ptrdiff_t>(chunk * kChunkSize));
  const TreeRoot published = packed.store(changed);
  const ChunkRef replacement = packed.refs(published).at(chunk);
  for (int round = 0; round < 200; ++round) {
    image.adopt(packed.image, [] {});
    overlay->replace(chunk, replacement);
    image.set_hot_pages({hot, 1});
    std::atomic<int> reading{0}, wrong{0};
    std::atomic<bool> done{false};
    std::vector<std::jthread> readers;
    for (int i = 0; i < 2; ++i) {
      readers.emplace_back([&] {
        do {
          wrong += reads(image, offset, ByteView(changed).subspan(offset, kBootPageSize)) ? 0 : 1;
          ++reading;
        } while (!done);
      });
    }
    while (reading < 2) std::this_thread::yield();
    image.adopt(published, [&] { overlay->drop_replaced(chunk); });
    done = true;
    readers.clear();
    REQUIRE(wrong == 0);
  }
}

TEST_CASE("a boot pack that is damaged or out of reach costs time but no page", "[image]") {
  Packed packed;
  const auto read_all = [&](ChunkReader& reader, const std::shared_ptr<HotPages>& hot) {
    Image image("memory", packed.image, std::shared_ptr<ChunkReader>(std::shared_ptr<void>(), &reader), nullptr);
    image.set_hot_pages({hot, 1});
    for (std::size_t i = 0; i < packed.pages_.size(); ++i) {
      REQUIRE(reads(image, packed.page_of(i) * kBootPageSize, packed.original(packed.page_of(i))));
    }
    return image.counters().hot_pages.load();
  };
  ChunkReader reader(packed.source, {});
  const std::vector<ChunkRef> refs = packed.refs(packed.pack);
  SECTION("a chunk of its pages is damaged") {
    packed.source->store(refs.at(1).cid, Bytes(refs[1].length));
    const auto hot = std::make_shared<HotPages>(reader, packed.pack, std::stop_token());
    const std::uint64_t served = read_all(reader, hot);
    CHECK(served > 0);
    CHECK(served < packed.pages_.size());
  }
  SECTION("its head is damaged") {
    packed.source->store(refs.at(0).cid, Bytes(refs[0].length));
    CHECK(kind_thrown([&] { HotPages(reader, packed.pack, {}); }) == ErrorKind::kCorrupt);
  }
  SECTION("it is not a boot pack") {
    CHECK(kind_thrown([&] { HotPages(reader, packed.image, {}); }) == ErrorKind::kCorrupt);
    CHECK(kind_thrown([&] { HotPages(reader, {17, packed.pack.root}, {}); }) == ErrorKind::kCorrupt);
  }
  SECTION("it cannot be reached, but the page's own chunk can") {
    ChunkReader through(std::make_shared<OutOfReach>(packed.source, refs.at(2).cid), {});
    const auto hot = std::make_shared<HotPages>(through, packed.pack, std::stop_token());
    const std::uint64_t served = read_all(through, hot);
    CHECK(served > 0);
    CHECK(served < packed.pages_.size());
  }
}

TEST_CASE("a fill fetches the pack, then the order, then the rest, and then reports that all is here", "[image]") {
  Packed packed;
  const auto here = std::make_shared<test::KeepingSource>(packed.source);
  const auto reader = std::make_shared<ChunkReader>(here, ReaderOptions{});
  const auto hot = std::make_shared<HotPages>(*reader, packed.pack, std::stop_token());
  const auto image = std::make_shared<Image>("memory", packed.image, reader, nullptr);
  Sync<std::vector<std::string>> told;
  FillPlan plan;
  plan.pack = hot;
  plan.order = {{image, 3}, {image, 1}, {image, kChunks + 5}};
  plan.whole = image;
  plan.is_here = [&](const Cid& cid) { return here->has(cid); };
  plan.on_order_here = [&] { told.lock()->push_back("order"); };
  ChunkFill fill(*reader, std::move(plan));
  fill.start();
  fill.wait_for_pack(std::chrono::minutes(1), {}, [](const FillProgress&) {});
  CHECK(fill.progress().pack_bytes_here == fill.progress().pack_bytes);
  for (int i = 0; i < 6000 && !fill.progress().complete_since; ++i) {
    fill.wait_for_pack(std::chrono::milliseconds(0), {}, [](const FillProgress&) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const FillProgress done = fill.progress();
  REQUIRE(done.complete_since.has_value());
  CHECK(done.order_done);
  CHECK(done.order_here == 3);
  CHECK(done.whole == kChunks);
  CHECK(done.whole_here == kChunks);
  CHECK(told.lock()->size() == 1);
}

TEST_CASE("a fill that cannot get a chunk does not report that all is here", "[image]") {
  Packed packed;
  packed.source->store(packed.refs(packed.image).at(7).cid, Bytes(100));
  const auto here = std::make_shared<test::KeepingSource>(
      test::verified_tiers(std::make_shared<MemorySource>("none"), packed.source));
  const auto reader = std::make_shared<ChunkReader>(here, ReaderOptions{});
  const auto image = std::make_shared<Image>("memory", packed.image, reader, nullptr);
  FillPlan plan;
  plan.order = {{image, 7}, {image, 3}};
  plan.whole = image;
  plan.is_here = [&](const Cid& cid) { return here->has(cid); };
  ChunkFill fill(*reader, std::move(plan));
  fill.start();
  for (int i = 0; i < 6000 && fill.progress().whole_here < kChunks - 1; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(fill.progress().order_here == 2);
  CHECK(fill.progress().whole_here == kChunks - 1);
  CHECK_FALSE(fill.progress().complete_since.has_value());
}

TEST_CASE("a fill stops at once, whatever it waits for", "[image]") {
  Packed packed;
  const auto reader = std::make_shared<ChunkReader>(packed.source, ReaderOptions{});
  const auto image = std::make_shared<Image>("memory", packed.image, reader, nullptr);
  FillPlan plan;
  plan.order = {{image, 3}, {image, 1}};
  plan.is_here = [](const Cid&) { return false; };
  Bytes first(1);
  std::jthread guest;
  SECTION("a chunk") {
    image->read(0, first);  // so that the pages above the chunks are here
    packed.source->hold();
  }
  SECTION("a page of the tree") { packed.source->hold(); }
  SECTION("a page of the tree, to list all") {
    plan.order.clear();
    plan.whole = image;
    packed.source->hold();
  }
  SECTION("a page of the tree that a guest waits for") {
    packed.source->hold();
    guest = std::jthread([&] { CHECK(image->read(0, first) == first.size()); });
    packed.source->wait_for_fetches(1);
  }
  {
    ChunkFill fill(*reader, std::move(plan));
    const std::size_t before = packed.source->fetches();
    fill.start();
    if (guest.joinable()) {
      for (int i = 0; i < 1000; ++i) std::this_thread::yield();  // so that it waits already, most times
    } else {
      packed.source->wait_for_fetches(before + 1);
    }
    fill.request_stop();
  }
  packed.source->release();
}

}  // namespace isr
