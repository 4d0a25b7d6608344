#include "image/chunk_reader.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <future>
#include <thread>

#include "base/file.h"
#include "image/image.h"
#include "image/tree_builder.h"
#include "support/bytes.h"
#include "support/error_kind.h"
#include "support/memory_source.h"

namespace isr {
namespace {

using test::kind_thrown;
using test::MemorySource;

Key secret() { return hkdf_sha256(as_bytes("domain"), {}, "test"); }

ChunkRef stored(MemorySource& source, std::uint64_t seed) {
  const SealedObject sealed = seal_chunk(test::random_bytes(kChunkSize, seed), secret());
  source.store(sealed.ref.cid, sealed.bytes);
  return sealed.ref;
}

TreeRoot image_of(MemorySource& source, std::uint64_t chunks) {
  TreeBuilder builder(chunks * kChunkSize, secret(),
                      [&](const SealedObject& page) { source.store(page.ref.cid, page.bytes); });
  for (std::uint64_t i = 0; i < chunks; ++i) builder.add(stored(source, i));
  return builder.finish();
}

/// Fails the prefetches once a guest's read has come.
class FailingPrefetch : public ObjectSource {
 public:
  explicit FailingPrefetch(SourcePtr inner) : inner_(std::move(inner)) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    if (priority != Priority::kReadahead) return inner_->fetch(cid, priority, std::move(stop));
    begun = true;
    begun.notify_all();
    guest_came.wait(false);
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();  // so that it waits already, most times
    throw Error(ErrorKind::kTransient, "a prefetch failed");
  }
  std::string describe() const override { return "failing"; }
  std::atomic<bool> begun{false}, guest_came{false};

 private:
  SourcePtr inner_;
};

}  // namespace

TEST_CASE("a chunk is fetched once, however many readers ask at once", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const ChunkRef ref = stored(*source, 1);
  ChunkReader reader(source, {});
  source->hold();
  std::vector<std::jthread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back(
        [&] { good += to_bytes(*reader.read_chunk(ref)) == test::random_bytes(kChunkSize, 1) ? 1 : 0; });
  }
  source->wait_for_fetches(1);
  source->release();
  threads.clear();
  CHECK(good == 8);
  CHECK(source->fetches() == 1);
  CHECK(reader.is_decoded(ref));
}

TEST_CASE("a decoded chunk is not given to a reference with the same name and another key", "[image]") {
  const TempDirectory directory("isr-");
  const auto source = std::make_shared<MemorySource>("memory");
  ReaderOptions options;
  options.decoded_bytes = 0;
  options.spill = {directory.path(), 8 * kChunkSize};
  ChunkReader reader(source, options);
  const SealedObject page = seal_page(std::vector<ChunkRef>{stored(*source, 9)}, secret());
  source->store(page.ref.cid, page.bytes);
  const ChunkRef ref = stored(*source, 1);
  const auto with_another_key = [](ChunkRef other) {
    other.key.value[0] ^= 1;
    return other;
  };
  const auto with_another_digest = [](ChunkRef other) {
    other.digest.value[0] ^= 1;
    return other;
  };
  Bytes piece(4096);
  reader.read_piece(ref, 0, piece);
  reader.wait_for_spills();
  reader.read_page(page.ref);
  for (const ChunkRef& other : {with_another_key(ref), with_another_digest(ref)}) {
    CHECK_FALSE(reader.is_decoded(other));
    CHECK((kind_thrown([&] { reader.read_chunk(other); }) == ErrorKind::kCorrupt));
    CHECK((kind_thrown([&] { reader.read_piece(other, 0, piece); }) == ErrorKind::kCorrupt));
  }
  CHECK((kind_thrown([&] { reader.read_page(with_another_key(page.ref)); }) == ErrorKind::kCorrupt));

  // From the file alone, too: memory holds four chunks, and these push the first one out.
  for (std::uint64_t i = 2; i < 10; ++i) reader.read_chunk(stored(*source, i));
  CHECK_FALSE(reader.is_decoded(ref));
  CHECK((kind_thrown([&] { reader.read_piece(with_another_key(ref), 0, piece); }) == ErrorKind::kCorrupt));
  reader.read_piece(ref, 0, piece);
  CHECK((piece == to_bytes(ByteView(test::random_bytes(kChunkSize, 1)).first(4096))));
}

TEST_CASE("a guest's read does not fail with the prefetch for which it waited", "[image]") {
  const auto memory = std::make_shared<MemorySource>("memory");
  const ChunkRef ref = stored(*memory, 1);
  const auto source = std::make_shared<FailingPrefetch>(memory);
  ChunkReader reader(source, {});
  std::atomic<int> failed{0};
  reader.prefetch([&] { failed += kind_thrown([&] { reader.read_chunk(ref, Priority::kReadahead); }) ? 1 : 0; });
  source->begun.wait(false);
  source->guest_came = true;
  source->guest_came.notify_all();
  CHECK((to_bytes(*reader.read_chunk(ref)) == test::random_bytes(kChunkSize, 1)));
  CHECK(memory->fetches() == 1);
}

TEST_CASE("readers that wait for a read of their own priority share its failure", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  ChunkRef absent = stored(*source, 1);
  absent.cid.value[0] ^= 1;
  ChunkReader reader(source, {});
  std::vector<std::jthread> threads;
  std::atomic<int> corrupt{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { corrupt += kind_thrown([&] { reader.read_chunk(absent); }) == ErrorKind::kCorrupt; });
  }
  threads.clear();
  CHECK(corrupt == 4);
}

TEST_CASE("settling does not wait for a guest's read, which may wait for the network", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const ChunkRef ref = stored(*source, 1);
  ChunkReader reader(source, {});
  source->hold();
  std::jthread guest([&] { reader.read_chunk(ref); });
  source->wait_for_fetches(1);
  std::optional<ErrorKind> kind;
  std::atomic<bool> ended{false};
  std::jthread settling([&] {
    kind = kind_thrown([&] { reader.read_chunk(ref, Priority::kSettling); });
    ended = true;
  });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!ended && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  CHECK(ended);
  source->release();
  settling.join();
  CHECK((kind == ErrorKind::kTransient));
}

TEST_CASE("a stopped read leaves its fetch to other readers that wait for it", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const ChunkRef ref = stored(*source, 1);
  ChunkReader reader(source, {});
  source->hold();
  std::stop_source stop;
  const auto is_stopped = [&](Priority priority) {
    return kind_thrown([&] { reader.read_chunk(ref, priority, stop.get_token()); }) == ErrorKind::kCancelled;
  };
  std::atomic<int> stopped{0}, read{0};
  std::vector<std::jthread> threads;
  threads.emplace_back([&] { stopped += is_stopped(Priority::kReadahead) ? 1 : 0; });
  source->wait_for_fetches(1);
  threads.emplace_back([&] { stopped += is_stopped(Priority::kGuest) ? 1 : 0; });
  for (const Priority priority : {Priority::kGuest, Priority::kReadahead}) {
    threads.emplace_back([&, priority] { read += reader.read_chunk(ref, priority) ? 1 : 0; });
  }
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();  // so that they wait already, most times
  stop.request_stop();
  threads[0].join();
  threads[1].join();
  source->release();
  threads.clear();
  CHECK(stopped == 2);
  CHECK(read == 2);
}

TEST_CASE("an image returns its base while a read of it waits for the network", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const auto reader = std::make_shared<ChunkReader>(source, ReaderOptions{});
  Image image("memory", image_of(*source, 4), reader, nullptr);
  source->hold();
  const std::jthread guest([&] {
    Bytes out(1);
    CHECK(image.read(0, out) == out.size());
  });
  source->wait_for_fetches(1);
  CHECK(image.base().tree.size == 4 * kChunkSize);
  source->release();
}

TEST_CASE("a copy that does not open is dropped and fetched again, once", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const ChunkRef ref = stored(*source, 1);
  source->store(ref.cid, test::flip_bit(*source->fetch(ref.cid, Priority::kGuest, {}), 999));
  ChunkReader reader(source, {});
  CHECK((kind_thrown([&] { reader.read_chunk(ref); }) == ErrorKind::kCorrupt));
  CHECK(source->dropped().size() == 1);
  CHECK(source->fetches() == 3);
}

TEST_CASE("the number of kept decoded chunks is bounded", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  ChunkReader reader(source, {.decoded_bytes = 4 * kChunkSize});
  std::vector<ChunkRef> refs;
  for (std::uint64_t i = 0; i < 10; ++i) refs.push_back(stored(*source, i));
  for (const ChunkRef& ref : refs) reader.read_chunk(ref);
  CHECK(std::count_if(refs.begin(), refs.end(), [&](const ChunkRef& ref) { return reader.is_decoded(ref); }) == 4);
}

TEST_CASE("an image and its reader end while prefetches wait for the network", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const TreeRoot tree = image_of(*source, 64);
  auto reader = std::make_shared<ChunkReader>(source, ReaderOptions{});
  auto image = std::make_shared<Image>("disk", tree, reader, nullptr);
  Bytes out(kChunkSize);
  image->read(0, out);
  const std::size_t before = source->fetches();
  std::jthread guest;
  source->hold();
  {
    guest = std::jthread([image, out]() mutable { kind_thrown([&] { image->read(kChunkSize, out); }); });
    source->wait_for_fetches(before + 3);  // its own and at least two ahead
  }
  SECTION("cancelled") { reader->cancel(); }
  SECTION("released") { source->release(); }
  image.reset();
  reader.reset();
}

TEST_CASE("an interrupt ends waiting reads, but not later ones", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const ChunkRef ref = stored(*source, 1);
  ChunkReader reader(source, {});
  source->hold();
  auto waiting = std::async(std::launch::async, [&] { return kind_thrown([&] { reader.read_chunk(ref); }); });
  source->wait_for_fetches(1);
  reader.interrupt();
  CHECK(waiting.get() == ErrorKind::kCancelled);
  source->release();
  CHECK(reader.read_chunk(ref)->size() == kChunkSize);
}

TEST_CASE("a long read of an image fetches its chunks at the same time", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  const TreeRoot tree = image_of(*source, 16);
  const auto reader = std::make_shared<ChunkReader>(source, ReaderOptions{});
  Image image("disk", tree, reader, nullptr);
  Bytes first(1);
  image.read(15 * kChunkSize, first);  // the page is here now
  const std::size_t before = source->fetches();
  source->hold();
  Bytes out(8 * kChunkSize);
  {
    const std::jthread guest([&] { image.read(kChunkSize, out); });
    source->wait_for_fetches(before + 8);
    source->release();
  }
  CHECK((ByteView(out).first(4)[0] == test::random_bytes(kChunkSize, 1)[0]));
  CHECK(source->fetches() == before + 8);
}

TEST_CASE("fetches ahead wait while guests' reads fill the link, and then continue", "[image]") {
  constexpr std::uint64_t kWindow = 8;  // while no link is known
  const auto source = std::make_shared<MemorySource>("memory");
  std::vector<ChunkRef> refs;
  for (std::uint64_t i = 0; i <= kWindow; ++i) refs.push_back(stored(*source, i));
  ChunkReader reader(source, {});
  source->hold();
  std::vector<std::jthread> threads;
  for (std::uint64_t i = 0; i < kWindow; ++i) threads.emplace_back([&, i] { reader.read_chunk(refs[i]); });
  source->wait_for_fetches(kWindow);
  std::atomic<bool> brought{false};
  std::jthread ahead([&] {
    reader.bring(refs[kWindow], {});
    brought = true;
  });
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  CHECK(source->fetches() == kWindow);
  source->release();
  ahead.join();
  CHECK(brought);
  CHECK(source->fetches() == kWindow + 1);
}

TEST_CASE("fetching ahead ends at once when it is stopped while it waits for room", "[image]") {
  const auto source = std::make_shared<MemorySource>("memory");
  std::vector<ChunkRef> refs;
  for (std::uint64_t i = 0; i <= 8; ++i) refs.push_back(stored(*source, i));
  ChunkReader reader(source, {});
  source->hold();
  std::vector<std::jthread> threads;
  for (std::uint64_t i = 0; i < 8; ++i) threads.emplace_back([&, i] { reader.read_chunk(refs[i]); });
  source->wait_for_fetches(8);
  std::stop_source stop;
  std::optional<ErrorKind> kind;
  std::jthread ahead([&] { kind = kind_thrown([&] { reader.bring(refs[8], stop.get_token()); }); });
  stop.request_stop();
  ahead.join();
  CHECK((kind == ErrorKind::kCancelled));
  source->release();
}

}  // namespace isr
