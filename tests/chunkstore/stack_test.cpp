#include "chunkstore/stack.h"

#include <fcntl.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "base/file.h"
#include "chunkstore/layers_bench.h"
#include "chunkstore/object_source_suite.h"
#include "support/error_kind.h"
#include "support/memory_store.h"

namespace isr {

using test::ask;
using test::kind_thrown;
using test::message_of;
using Sample = test::LayerSample;

namespace {

/// A repository that cannot be reached until the test says so.
class UnreachableStore : public test::MemoryStore {
 public:
  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    ++asked;
    if (!reachable) throw Error(ErrorKind::kTransient, "the server does not answer");
    return MemoryStore::get(name, range, std::move(stop));
  }
  std::atomic<bool> reachable = false;
  std::atomic<int> asked = 0;
};

}  // namespace

TEST_CASE("without a repository only objects on this host can be read", "[chunkstore]") {
  const TempDirectory temp;
  const Sample here(1);
  const Sample settled(2);
  const Sample elsewhere(3);
  SourceStats stats;
  const auto store = open_pack_store(temp.path() / "settled", {.durable = true});
  const auto cache = open_pack_store(temp.path() / "cache", {});
  cache->put(here.cid, here.object);
  store->put(settled.cid, settled.object);
  for (const auto unreachable : {Unreachable::kFail, Unreachable::kWait}) {
    const auto source = open_stack({settled_tier(store), cache_tier(cache)}, stats, {.unreachable = unreachable});
    CHECK((ask(source, here.cid) == here.object));
    CHECK((ask(source, settled.cid) == settled.object));
    CHECK((kind_thrown([&] { ask(source, elsewhere.cid); }) == ErrorKind::kOffline));
  }
  CHECK(stats.tier("cache").hits == 2);
  CHECK(stats.tier("settled").hits == 2);
}

TEST_CASE("while the repository cannot be reached a read fails or waits, as configured", "[chunkstore]") {
  const Sample sample;
  SourceStats stats;
  const auto store = std::make_shared<UnreachableStore>();
  store->put_new(object_name(sample.cid), sample.object);
  const std::vector<Tier> tiers{repository_tier(store, stats.link)};
  StackOptions options{.first_wait = std::chrono::milliseconds(1), .max_wait = std::chrono::milliseconds(2)};

  SECTION("fail: offline, and the missing object is named") {
    const auto source = open_stack(tiers, stats, options);
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kOffline));
    const std::string message = message_of([&] { ask(source, sample.cid); });
    CHECK(message.find("does not answer") != std::string::npos);
    CHECK(message.find("is not here") != std::string::npos);
  }
  SECTION("wait: until it is there") {
    options.unreachable = Unreachable::kWait;
    const auto source = open_stack(tiers, stats, options);
    std::optional<Bytes> got;
    std::jthread reader([&] { got = ask(source, sample.cid); });
    while (store->asked < 3) std::this_thread::yield();
    CHECK(stats.waiting == 1);
    store->reachable = true;
    reader.join();
    CHECK((got == sample.object));
    CHECK(stats.waiting == 0);
    CHECK(stats.retries >= 2);
    CHECK(stats.tier("repository").bytes == sample.object.size());
  }
  SECTION("wait: not for work that can be left for later") {
    options.unreachable = Unreachable::kWait;
    const auto source = open_stack(tiers, stats, options);
    for (const auto priority : {Priority::kReadahead, Priority::kSettling}) {
      std::stop_source stop;
      std::atomic<bool> ended = false;
      std::optional<ErrorKind> kind;
      std::jthread reader([&] {
        kind = kind_thrown([&] { source->fetch(sample.cid, priority, stop.get_token()); });
        ended = true;
      });
      while (!ended && stats.retries < 3) std::this_thread::yield();
      stop.request_stop();
      reader.join();
      CHECK((kind == ErrorKind::kOffline));
    }
    CHECK(stats.retries == 0);
  }
  SECTION("wait: until stop is requested") {
    options.unreachable = Unreachable::kWait;
    options.first_wait = options.max_wait = std::chrono::hours(1);
    const auto source = open_stack(tiers, stats, options);
    std::stop_source stop;
    std::optional<ErrorKind> kind;
    std::jthread reader([&] { kind = kind_thrown([&] { ask(source, sample.cid, stop.get_token()); }); });
    while (store->asked < 1) std::this_thread::yield();
    stop.request_stop();
    reader.join();
    CHECK((kind == ErrorKind::kCancelled));
  }
  SECTION("wait: absence and damage are not waited for") {
    options.unreachable = Unreachable::kWait;
    store->reachable = true;
    const auto source = open_stack(tiers, stats, options);
    CHECK_FALSE(ask(source, Sample(99).cid).has_value());
    store->overwrite(object_name(sample.cid), test::flip_bit(sample.object, 3));
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kCorrupt));
  }
}

TEST_CASE("a settled object that cannot be read fails when the repository is out of reach, instead of waiting",
          "[chunkstore]") {
  const TempDirectory temp;
  const Sample sample;
  SourceStats stats;
  const auto store = std::make_shared<UnreachableStore>();
  constexpr std::chrono::milliseconds kShort(1);
  auto settled = open_pack_store(temp.path() / "settled", {.durable = true});
  settled->put(sample.cid, sample.object);
  settled->sync();
  const auto source = open_stack({settled_tier(settled), repository_tier(store, stats.link)}, stats,
                                 {.unreachable = Unreachable::kWait, .first_wait = kShort, .max_wait = kShort});
  SECTION("its disk answers EIO") {
    settled.reset();
    const auto pack = fs::directory_iterator(temp.path() / "settled/packs")->path();
    fs::remove(pack);
    fs::create_directory(pack);  // opening it for writing fails, as a bad disk would
  }
  SECTION("it is damaged") {
    const auto pack = fs::directory_iterator(temp.path() / "settled/packs")->path();
    const auto fd = open_file(pack, O_RDWR);
    write_all_at(fd.get(), Bytes(5000, 0x55), 40, pack);
    source->drop(sample.cid);  // as a reader does that finds it does not open
  }
  std::stop_source stop;
  std::optional<ErrorKind> kind;
  std::atomic<bool> ended = false;
  std::jthread reader([&] {
    kind = kind_thrown([&] { ask(source, sample.cid, stop.get_token()); });
    ended = true;
  });
  while (!ended && stats.retries < 3) std::this_thread::yield();
  stop.request_stop();
  reader.join();
  CHECK((kind == ErrorKind::kIo));
  store->put_new(object_name(sample.cid), sample.object);
  store->reachable = true;
  CHECK((ask(source, sample.cid) == sample.object));
}

TEST_CASE("a repository on a disk that is not plugged in counts as out of reach", "[chunkstore]") {
  const TempDirectory temp;
  const fs::path disk = temp.path() / "disk";
  make_private_directory(disk);
  const Sample sample;
  const auto store = make_directory_store(disk);
  store->put_new(object_name(sample.cid), sample.object);
  fs::rename(disk, temp.path() / "unplugged");
  SourceStats stats;
  const std::vector<Tier> tiers{repository_tier(store, stats.link)};

  SECTION("fail") {
    CHECK((kind_thrown([&] { ask(open_stack(tiers, stats), sample.cid); }) == ErrorKind::kOffline));
  }
  SECTION("wait") {
    const auto source =
        open_stack(tiers, stats, {.unreachable = Unreachable::kWait, .first_wait = std::chrono::milliseconds(1)});
    std::atomic<bool> ended = false;
    std::optional<Bytes> got;
    std::jthread reader([&] {
      kind_thrown([&] { got = ask(source, sample.cid); });
      ended = true;
    });
    while (stats.retries < 1 && !ended) std::this_thread::yield();
    fs::rename(temp.path() / "unplugged", disk);
    reader.join();
    CHECK((got == sample.object));
  }
}

}  // namespace isr
