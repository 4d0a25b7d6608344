// Images with patches that were written, sealed, and are read through a ChunkReader, with parts of them damaged or
// gone.

#include <catch2/catch.hpp>
#include <thread>

#include "base/file.h"
#include "image/patch_bench.h"
#include "image/patch_writer.h"
#include "image/patches.h"
#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/memory_source.h"

namespace isr {
namespace {

using test::at;
using test::below;
using test::kind_thrown;
using test::MemorySource;
using test::random_table;
using test::table_of;

constexpr std::uint64_t kSize = test::kPatchedSize;

Key secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

/// One object is gone or out of reach for as long as `failure` says.
class Lacking : public ObjectSource {
 public:
  enum class Failure { kNone, kMissing, kOffline };
  explicit Lacking(SourcePtr inner) : inner_(std::move(inner)) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    ++fetches;
    if (cid == lacks && failure == Failure::kOffline) throw Error(ErrorKind::kOffline, "out of reach");
    if (cid == lacks && failure == Failure::kMissing) return std::nullopt;
    return inner_->fetch(cid, priority, std::move(stop));
  }
  std::string describe() const override { return "lacking"; }

  Cid lacks;
  std::atomic<Failure> failure{Failure::kNone};
  std::atomic<std::size_t> fetches{0};

 private:
  SourcePtr inner_;
};
using Failure = Lacking::Failure;

/// A tree of random bytes, patches over it, and what an image of both reads.
struct Patched {
  explicit Patched(std::uint64_t seed = 1) : tree_bytes(test::random_bytes(kSize, seed)), expected(tree_bytes) {
    content.tree = store(tree_bytes);
  }

  TreeRoot store(Bytes plain) const {
    const std::uint64_t size = plain.size();
    plain.resize(chunk_count(size) * kChunkSize);
    ChunkReader nothing(source, {});
    std::map<std::uint64_t, ChunkRef> changes;
    for (std::uint64_t i = 0; i < chunk_count(size); ++i) {
      const SealedObject sealed = seal_chunk(ByteView(plain).subspan(i * kChunkSize, kChunkSize), secret());
      source->store(sealed.ref.cid, sealed.bytes);
      changes[i] = sealed.ref;
    }
    return update_tree(nothing, {size, {}}, changes, secret(), keep());
  }

  EmitObject keep() const {
    return [this](const SealedObject& object) { source->store(object.ref.cid, object.bytes); };
  }
  PatchWriter writer() const { return PatchWriter(secret(), 2, keep()); }

  /// Adds the newest patch. Its data are random, its cleared chunks those of the tree.
  void add(const PatchTable& table, std::uint64_t seed) {
    const Bytes data = test::random_bytes(table.data_bytes, seed);
    for (const ChunkRun& run : table.cleared) {
      const std::uint64_t end = std::min(run.end() * kChunkSize, kSize);
      std::copy(at(tree_bytes, run.first * kChunkSize), at(tree_bytes, end), at(expected, run.first * kChunkSize));
    }
    PatchWriter patch = writer();
    for (const PatchRun& run : table.runs) {
      const ByteView bytes = ByteView(data).subspan(run.position, run.is_zeros ? 0 : run.length);
      if (run.is_zeros) {
        patch.add_zeros(run.offset, run.length);
        std::fill(at(expected, run.offset), at(expected, run.end()), std::uint8_t{0});
      } else {
        patch.add(run.offset, bytes);
        std::copy(bytes.begin(), bytes.end(), at(expected, run.offset));
      }
    }
    for (const ChunkRun& run : table.cleared) patch.clear(run);
    content.patches.insert(content.patches.begin(), patch.finish());
  }

  std::vector<ChunkRef> refs(const TreeRoot& tree) const {
    std::vector<ChunkRef> out;
    ChunkReader all(source, {});
    for_each_chunk(all, tree, [&](std::uint64_t, const ChunkRef& ref) { out.push_back(ref); });
    return out;
  }
  void damage(const ChunkRef& ref) const { source->store(ref.cid, Bytes(ref.length)); }
  Bytes plain(const TreeRoot& tree) const {
    Bytes out;
    ChunkReader all(source, {});
    for (const ChunkRef& ref : refs(tree)) {
      const ChunkData data = all.read_chunk(ref);
      out.insert(out.end(), data->begin(), data->end());
    }
    out.resize(tree.size);
    return out;
  }

  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("memory");
  Bytes tree_bytes, expected;
  PatchedTree content;
};

/// Reads an image as a host does that has none of its objects. A read that fails returns no bytes, so none are
/// compared.
struct Opened {
  explicit Opened(const Patched& of)
      : source(std::make_shared<Lacking>(of.source)), reader(source, {}), base(of.content), expected(of.expected) {}

  bool reads(std::uint64_t offset, std::size_t length, bool whole_chunks = false) {
    Bytes out(length, 0xa5);
    base.read(reader, offset, out, {.whole_chunks = whole_chunks});
    return std::equal(out.begin(), out.end(), at(expected, offset));
  }
  bool reads_all() {
    for (std::uint64_t at = 0; at < kSize; at += kChunkSize) {
      if (!reads(at, std::min<std::uint64_t>(kChunkSize, kSize - at), true)) return false;
    }
    return true;
  }
  std::optional<ErrorKind> reading(std::uint64_t offset, std::size_t length, bool whole_chunks = false) {
    return kind_thrown([&] { reads(offset, length, whole_chunks); });
  }
  std::optional<ErrorKind> indexing(const std::stop_token& stop = {}) {
    return kind_thrown([&] { base.index(reader, Priority::kGuest, stop); });
  }
  void lack(const ChunkRef& ref, Failure failure) const {
    source->lacks = ref.cid;
    source->failure = failure;
  }

  std::shared_ptr<Lacking> source;
  ChunkReader reader;
  BaseContent base;
  Bytes expected;
};

/// A patch whose data take two chunks, and whose table lies in a third. Patches chunks 0 to 2.
Patched with_large_patch() {
  Patched image;
  image.add(table_of({{5000, 2 * kChunkSize, false, 0}, {300'000, 1000, true, 0}}), 7);
  return image;
}

/// Damages an object, or takes it away in one of two ways. Returns the error of a read that needs it.
ErrorKind lose(const Patched& image, const Opened& opened, const ChunkRef& ref) {
  const auto failure = GENERATE(Failure::kNone, Failure::kMissing, Failure::kOffline);
  CAPTURE(failure);
  if (failure == Failure::kNone) {
    image.damage(ref);
  } else {
    opened.lack(ref, failure);
  }
  return failure == Failure::kOffline ? ErrorKind::kOffline : ErrorKind::kCorrupt;
}

}  // namespace

TEST_CASE("a patch has exactly the bytes of its golden file when it is written", "[image]") {
  const Bytes golden = read_file(fs::path(ISR_GOLDEN_DIR) / "patch" / "v1", 65536);
  const Patched image;
  PatchWriter patch = image.writer();
  CHECK(patch.empty());
  patch.add(4096, as_bytes("abc"));
  patch.add(131'070, as_bytes("de"));
  patch.add(131'072, as_bytes("fgh"));  // continues the run
  patch.add(262'144, Bytes(1000));
  patch.add_zeros(263'144, 130'072);  // continues the zeros
  patch.add(999'990, as_bytes("ijklmnopqr"));
  patch.clear({2, 1});
  patch.clear({5, 1});
  patch.clear({6, 1});
  CHECK_FALSE(patch.empty());
  const TreeRoot root = patch.finish();
  CHECK(root.size == golden.size());
  CHECK((image.plain(root) == golden));
}

TEST_CASE("a writer refuses runs and chunks when they are out of order", "[image]") {
  const Patched image;
  PatchWriter patch = image.writer();
  patch.add(100, as_bytes("abc"));
  CHECK(kind_thrown([&] { patch.add(102, as_bytes("d")); }) == ErrorKind::kBug);
  CHECK(kind_thrown([&] { patch.add_zeros(0, 1); }) == ErrorKind::kBug);
  patch.clear({4, 2});
  CHECK(kind_thrown([&] { patch.clear({5, 1}); }) == ErrorKind::kBug);
  CHECK(kind_thrown([&] { patch.clear({0, 1}); }) == ErrorKind::kBug);
}

TEST_CASE("a writer says that it is full when the runs of one more chunk may not fit", "[image]") {
  const Patched image;
  PatchWriter patch = image.writer();
  std::uint64_t at = 0;
  while (!patch.is_full()) {
    for (std::size_t i = 0; i < kChunkSize / 2; ++i, at += 2) patch.add(at, as_bytes("x"));
  }
  CHECK(at / 2 <= kMaxPatchRuns);
  CHECK(at / 2 > kMaxPatchRuns / 2);
  CHECK_NOTHROW(patch.finish());
}

TEST_CASE("zeros of more than 1 GiB become several runs when they are written", "[image]") {
  Patched image;
  image.content.tree = {3ULL << 30U, {}};
  PatchWriter patch = image.writer();
  patch.add_zeros(10, (2ULL << 30U) + 5);
  image.content.patches = {patch.finish()};
  Opened opened(image);
  const PatchIndex& index = opened.base.index(opened.reader, Priority::kGuest);
  REQUIRE(index.runs().size() == 3);
  CHECK(index.runs().front().offset == 10);
  CHECK(index.runs().back().end() == 10 + (2ULL << 30U) + 5);
}

TEST_CASE("an image reads as a plain model when random patches lie over it", "[image]") {
  std::mt19937_64 random(21);
  for (std::uint64_t round = 0; round < 12; ++round) {
    Patched image(round);
    for (std::uint64_t patches = below(random, 6), i = 0; i < patches; ++i) image.add(random_table(random), 100 + i);
    Opened opened(image);
    INFO("round " << round);
    REQUIRE(opened.reads_all());
    for (int i = 0; i < 200; ++i) {
      const std::uint64_t offset = below(random, kSize);
      const std::uint64_t most = std::min(kChunkSize - offset % kChunkSize, kSize - offset);
      const std::uint64_t length = std::min(1 + below(random, i % 2 == 0 ? 5'000 : 131'072), most);
      REQUIRE(opened.reads(offset, length, i % 3 == 0));
    }
  }
}

TEST_CASE("an image reads its bytes when a run crosses chunks of the image and of the patch", "[image]") {
  Patched image = with_large_patch();
  REQUIRE(chunk_count(image.content.patches[0].size) == 3);
  image.add(table_of({{kChunkSize - 3, 6, false, 0}, {2 * kChunkSize - 1, 2, true, 0}}), 8);
  Opened opened(image);
  CHECK(opened.reads_all());
  for (const std::uint64_t border : {kChunkSize, 2 * kChunkSize}) {
    CHECK(opened.reads(border - 10, 10));
    CHECK(opened.reads(border, 10));
  }
  CHECK(opened.reads(kChunkSize + 4990, 20));  // where the data of the patch cross its own chunks
}

TEST_CASE("an image of zeros reads its patches when it has no tree", "[image]") {
  Patched image;
  image.content.tree = {kSize, {}};
  std::fill(image.expected.begin(), image.expected.end(), std::uint8_t{0});
  image.add(table_of({{100, 5000, false, 0}, {kSize - 10, 10, false, 0}}), 3);
  CHECK_FALSE(image.content.is_zero());
  Opened opened(image);
  CHECK(opened.reads_all());
}

TEST_CASE("an image does not need a chunk of its tree when patches have all bytes that are read", "[image]") {
  const Patched image = with_large_patch();
  image.damage(image.refs(image.content.tree).at(1));
  Opened opened(image);
  CHECK(opened.reads(kChunkSize, kChunkSize, true));
  CHECK(opened.reading(0, kChunkSize) == std::nullopt);
  CHECK(opened.reads(5000 + 2 * kChunkSize, 100));
  image.damage(image.refs(image.content.tree).at(0));
  Opened again(image);
  CHECK(again.reads(5000, 100));
  CHECK(again.reading(4999, 100) == ErrorKind::kCorrupt);
}

TEST_CASE("a read of patched bytes fails when their patch is damaged, missing or out of reach", "[image]") {
  const Patched image = with_large_patch();
  Opened opened(image);
  const ErrorKind kind = lose(image, opened, image.refs(image.content.patches[0]).at(1));
  const std::uint64_t lost = 5000 + kChunkSize;  // where the data of that chunk begin
  CHECK(opened.reading(lost, 1) == kind);
  CHECK(opened.reading(lost, 100'000) == kind);
  CHECK(opened.reading(lost - 10, 20, true) == kind);
  CHECK(opened.reading(2 * kChunkSize, kChunkSize, true) == kind);
  CHECK(opened.reads(lost - 10, 10));
  CHECK(opened.reads(5000 + 2 * kChunkSize, 100'000));
  CHECK(opened.reads(300'000, 1000));
}

TEST_CASE("a table needs no chunk with data when a patch has several chunks", "[image]") {
  Patched image;
  image.add(table_of({{5000, kChunkSize + 700, false, 0}}), 7);
  const auto chunks = image.refs(image.content.patches[0]);
  REQUIRE(chunks.size() == 3);
  image.damage(chunks[0]);
  image.damage(chunks[1]);
  Opened opened(image);
  CHECK_FALSE(opened.indexing());
  CHECK(opened.reads(0, 5000));
  CHECK(opened.reading(5000, 1) == ErrorKind::kCorrupt);
}

TEST_CASE("every read of an image fails when the table of a patch is damaged, missing or out of reach", "[image]") {
  Patched image = with_large_patch();
  const TreeRoot patch = image.content.patches[0];
  image.add(table_of({{0, 10, false, 0}}), 9);  // a newer one is as it should be
  Opened opened(image);
  const bool is_page = GENERATE(false, true);
  const ErrorKind kind = lose(image, opened, is_page ? patch.root : image.refs(patch).at(2));
  CHECK(opened.indexing() == kind);
  CHECK(opened.reading(3 * kChunkSize, 10) == kind);  // no patch lies there, but that is not known
  CHECK(opened.reading(0, 10) == kind);
}

TEST_CASE("an image is corrupt when something else than a patch stands in the place of one", "[image]") {
  Patched image = with_large_patch();
  TreeRoot& patch = image.content.patches[0];
  SECTION("random bytes") { patch = image.store(test::random_bytes(100'000, 4)); }
  SECTION("less than a footer") { patch = image.store(test::random_bytes(kPatchFooterSize - 1, 4)); }
  SECTION("a shorter size") { --patch.size; }
  SECTION("a longer size") { ++patch.size; }
  SECTION("a size with fewer chunks") { patch.size = 2 * kChunkSize; }
  SECTION("a size with more chunks") { patch.size = 3 * kChunkSize + kPatchFooterSize; }
  SECTION("a size of another tree") { patch.size = 1ULL << 30U; }
  SECTION("zeros") { patch.root = {}; }
  SECTION("a patch of a larger image") { image.content.tree = image.store(test::random_bytes(300'000, 4)); }
  Opened opened(image);
  CHECK(opened.indexing() == ErrorKind::kCorrupt);
  CHECK(opened.reading(0, 10) == ErrorKind::kCorrupt);
}

TEST_CASE("a patch is refused before it is fetched when it claims to be larger than a patch can be", "[image]") {
  Patched image = with_large_patch();
  image.content.patches[0].size = kMaxPatchSize + 1;
  Opened larger(image);
  CHECK(larger.indexing() == ErrorKind::kCorrupt);
  CHECK(larger.source->fetches == 0);
  image.content.patches[0].size = kMaxImageSize;
  Opened largest(image);
  CHECK(largest.indexing() == ErrorKind::kCorrupt);
  CHECK(largest.source->fetches == 0);
}

TEST_CASE("an index asks for a table again when it could not be had before, and for none when it has all", "[image]") {
  const Patched image = with_large_patch();
  Opened opened(image);
  const auto failure = GENERATE(Failure::kMissing, Failure::kOffline);
  opened.lack(image.refs(image.content.patches[0]).at(2), failure);
  const auto kind = failure == Failure::kOffline ? ErrorKind::kOffline : ErrorKind::kCorrupt;
  CHECK(opened.indexing() == kind);
  CHECK(opened.indexing() == kind);
  CHECK(opened.reading(0, 10) == kind);
  opened.source->failure = Failure::kNone;
  CHECK_FALSE(opened.indexing());
  CHECK(opened.reads_all());
  const PatchIndex* first = &opened.base.index(opened.reader, Priority::kGuest);
  const std::size_t before = opened.source->fetches;
  CHECK(&opened.base.index(opened.reader, Priority::kGuest) == first);
  CHECK(opened.source->fetches == before);
}

TEST_CASE("a content needs only the tables that an earlier content has not read", "[image]") {
  Patched image = with_large_patch();
  const ChunkRef first = image.content.patches[0].root;
  Opened earlier(image);
  REQUIRE_FALSE(earlier.indexing());
  image.add(table_of({{0, 10, false, 0}}), 9);
  Opened opened(image);
  opened.lack(first, Failure::kOffline);
  CHECK(opened.indexing() == ErrorKind::kOffline);
  const BaseContent later(image.content, earlier.base);
  CHECK(later.index(opened.reader, Priority::kGuest).patches().size() == 2);
}

TEST_CASE("an index reads a table once when another one could not be had at first", "[image]") {
  Patched image = with_large_patch();
  image.add(table_of({{0, 10, false, 0}}), 9);
  Opened opened(image);
  opened.lack(image.content.patches[1].root, Failure::kOffline);
  CHECK(opened.indexing() == ErrorKind::kOffline);
  opened.lack(image.content.patches[0].root, Failure::kOffline);
  CHECK_FALSE(opened.indexing());
}

TEST_CASE("an index can be asked for again when a caller was stopped", "[image]") {
  const Patched image = with_large_patch();
  Opened opened(image);
  std::stop_source stop;
  stop.request_stop();
  CHECK(opened.indexing(stop.get_token()) == ErrorKind::kCancelled);
  CHECK_FALSE(opened.indexing());
  CHECK(opened.reads_all());
}

TEST_CASE("threads get one index when they ask for it at once", "[image]") {
  const Patched image = with_large_patch();
  Opened opened(image);
  std::array<const PatchIndex*, 4> got{};
  {
    std::vector<std::jthread> threads;
    for (auto& mine : got) {
      threads.emplace_back([&] { mine = &opened.base.index(opened.reader, Priority::kGuest); });
    }
  }
  CHECK(got[0] != nullptr);
  for (const PatchIndex* each : got) CHECK(each == got[0]);
  CHECK(opened.reads_all());
}

}  // namespace isr
