// Trees that no writer of ours makes: whoever signs an appliance chooses its pages.

#include "image/tree.h"

#include <catch2/catch.hpp>

#include "image/image.h"
#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/memory_source.h"

namespace isr {
namespace {

using test::kind_thrown;

Key secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

struct Forge {
  Forge() : source(std::make_shared<test::MemorySource>("memory")), reader(source, {.decoded_pages = 8}) {}

  ChunkRef chunk(std::uint64_t seed) { return keep(seal_chunk(test::random_bytes(kChunkSize, seed), secret())); }
  ChunkRef page(const std::vector<ChunkRef>& refs) { return keep(seal_page(refs, secret())); }
  ChunkRef keep(const SealedObject& sealed) {
    source->store(sealed.ref.cid, sealed.bytes);
    return sealed.ref;
  }

  std::optional<ErrorKind> find(const TreeRoot& tree, std::uint64_t index) {
    return kind_thrown([&] { find_chunk(reader, tree, index); });
  }
  std::optional<ErrorKind> walk(const TreeRoot& tree) {
    return kind_thrown([&] { for_each_chunk(reader, tree, [](std::uint64_t, const ChunkRef&) {}); });
  }

  std::shared_ptr<test::MemorySource> source;
  ChunkReader reader;
};

constexpr std::uint64_t kPageBytes = 256 * kChunkSize;

}  // namespace

TEST_CASE("a tree with a missing page is damaged", "[image]") {
  Forge forge;
  ChunkRef absent = forge.page({forge.chunk(1)});
  absent.cid.value[3] ^= 1;
  CHECK((forge.find({kPageBytes, absent}, 0) == ErrorKind::kCorrupt));
  CHECK((forge.walk({kPageBytes, absent}) == ErrorKind::kCorrupt));
}

TEST_CASE("a chunk where a page belongs, and a page where a chunk belongs, are damage", "[image]") {
  Forge forge;
  const ChunkRef chunk = forge.chunk(1);
  CHECK((forge.find({kPageBytes, chunk}, 0) == ErrorKind::kCorrupt));
  const ChunkRef leaf = forge.page({chunk});
  const ChunkRef above = forge.page({leaf});
  const ChunkRef found = find_chunk(forge.reader, {kPageBytes, above}, 0);  // one level too many
  CHECK((kind_thrown([&] { forge.reader.read_chunk(found); }) == ErrorKind::kCorrupt));
  CHECK((forge.find({2 * kPageBytes, leaf}, 0) == ErrorKind::kCorrupt));  // one too few
  CHECK((forge.walk({2 * kPageBytes, leaf}) == ErrorKind::kCorrupt));
}

TEST_CASE("chunks beyond the image's end are damage for a walk of the tree but do not affect reads", "[image]") {
  Forge forge;
  const ChunkRef page = forge.page({forge.chunk(1), forge.chunk(2), forge.chunk(3)});
  const TreeRoot tree{2 * kChunkSize - 5, page};
  CHECK((forge.walk(tree) == ErrorKind::kCorrupt));
  const auto reader = std::make_shared<ChunkReader>(forge.source, ReaderOptions{});
  Image image("disk", tree, reader, nullptr);
  Bytes out(3 * kChunkSize);
  CHECK(image.read(0, out) == 2 * kChunkSize - 5);
  CHECK(image.read(2 * kChunkSize - 5, out) == 0);
  CHECK(image.read(~0ULL, out) == 0);
}

TEST_CASE("an image that repeats one page takes the memory of a few pages", "[image]") {
  Forge forge;
  ChunkRef top = forge.page(std::vector<ChunkRef>(256, forge.chunk(1)));
  for (int level = 0; level < 3; ++level) top = forge.page(std::vector<ChunkRef>(256, top));
  const TreeRoot tree{kMaxImageSize, top};
  CHECK_FALSE(find_chunk(forge.reader, tree, chunk_count(kMaxImageSize) - 1).is_zero());
  std::uint64_t visits = 0;
  const auto stop_after_some = [&](std::uint64_t, const ChunkRef&) {
    if (++visits == 100'000) throw Error(ErrorKind::kCancelled, "enough");
  };
  CHECK((kind_thrown([&] { for_each_chunk(forge.reader, tree, stop_after_some); }) == ErrorKind::kCancelled));
  CHECK(forge.source->fetches() == 4);
}

TEST_CASE("impossible image sizes are refused before anything is fetched", "[image]") {
  Forge forge;
  const ChunkRef page = forge.page({forge.chunk(1)});
  for (const std::uint64_t size : std::vector<std::uint64_t>{kMaxImageSize + 1, ~0ULL, ~0ULL - kChunkSize}) {
    CHECK((forge.find({size, page}, 0) == ErrorKind::kCorrupt));
    CHECK((forge.walk({size, page}) == ErrorKind::kCorrupt));
  }
  CHECK(forge.source->fetches() == 0);
}

TEST_CASE("runs of zeros change a tree as single zero chunks do, and read no page they cover", "[image]") {
  Forge forge;
  const std::uint64_t count = 600;
  std::map<std::uint64_t, ChunkRef> all;
  for (const std::uint64_t chunk : {0, 1, 255, 256, 300, 511, 512, 599}) all[chunk] = forge.chunk(chunk);
  const auto emit = [&](const SealedObject& page) { forge.keep(page); };
  const TreeRoot base = update_tree(forge.reader, {count * kChunkSize, {}}, all, secret(), emit);

  const std::vector<ChunkRun> runs = {{1, 1}, {200, 320}, {590, 10}};
  std::map<std::uint64_t, ChunkRef> singly;
  for (const ChunkRun& run : runs) {
    for (std::uint64_t chunk = run.first; chunk < run.end(); ++chunk) singly[chunk] = {};
  }
  std::map<std::uint64_t, ChunkRef> changes = {{520, forge.chunk(9)}};
  singly.insert(changes.begin(), changes.end());
  const TreeRoot expected = update_tree(forge.reader, base, singly, secret(), emit);
  CHECK(update_tree(forge.reader, base, changes, secret(), emit, runs).root == expected.root);

  const ChunkRun everything{0, count};
  const std::size_t before = forge.source->fetches();
  ChunkReader fresh(forge.source, {});
  CHECK(update_tree(fresh, base, {}, secret(), emit, {&everything, 1}).root.is_zero());
  CHECK(forge.source->fetches() == before);
  const ChunkRun too_far{count - 1, 2};
  CHECK((kind_thrown([&] { update_tree(fresh, base, {}, secret(), emit, {&too_far, 1}); }) == ErrorKind::kBug));
}

TEST_CASE("two trees are compared by the references of their chunks, and shared parts are not read", "[image]") {
  Forge forge;
  const std::uint64_t size = 600 * kChunkSize;
  std::map<std::uint64_t, ChunkRef> all;
  for (const std::uint64_t chunk : {0, 1, 255, 256, 300, 511, 512, 599}) all[chunk] = forge.chunk(chunk);
  const auto emit = [&](const SealedObject& page) { forge.keep(page); };
  const TreeRoot base = update_tree(forge.reader, {size, {}}, all, secret(), emit);
  const ChunkRef fresh = forge.chunk(9);
  const TreeRoot changed = update_tree(forge.reader, base, {{1, {}}, {254, fresh}, {599, fresh}}, secret(), emit);
  const auto differences = [&](const TreeRoot& before, const TreeRoot& after) {
    std::map<std::uint64_t, std::pair<ChunkRef, ChunkRef>> found;
    for_each_difference(forge.reader, before, after, [&](std::uint64_t chunk, const ChunkRef& a, const ChunkRef& b) {
      found[chunk] = {a, b};
    });
    return found;
  };
  using Found = std::map<std::uint64_t, std::pair<ChunkRef, ChunkRef>>;
  CHECK((differences(base, changed) == Found{{1, {all[1], {}}}, {254, {{}, fresh}}, {599, {all[599], fresh}}}));
  CHECK(differences({size, {}}, base).size() == all.size());
  CHECK(differences(base, {size, {}}).size() == all.size());
  ChunkReader fresh_reader(forge.source, {});
  const std::size_t before = forge.source->fetches();
  for_each_difference(fresh_reader, base, changed, [](std::uint64_t, const ChunkRef&, const ChunkRef&) {});
  CHECK(forge.source->fetches() == before + 6);  // not the page of chunks 256 to 511
  CHECK(differences(changed, changed).empty());
}

}  // namespace isr
