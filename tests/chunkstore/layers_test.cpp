#include <fcntl.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "chunkstore/object_source_suite.h"
#include "chunkstore/stack.h"
#include "support/error_kind.h"
#include "support/memory_source.h"
#include "support/memory_store.h"

namespace isr {
namespace {

using test::FaultSource;
using test::kind_thrown;
using test::MemorySource;

struct Sample {
  explicit Sample(std::uint64_t seed = 7) : object(test::random_bytes(5000, seed)), cid(cid_of(object)) {}
  Bytes object;
  Cid cid;
};

std::optional<Bytes> ask(const SourcePtr& source, const Cid& cid, std::stop_token stop = {}) {
  return source->fetch(cid, Priority::kGuest, std::move(stop));
}

std::shared_ptr<MemorySource> source_with(const Sample& sample, Bytes bytes, std::string name = "memory") {
  auto source = std::make_shared<MemorySource>(std::move(name));
  source->store(sample.cid, std::move(bytes));
  return source;
}

/// The last one is the authority.
SourcePtr tiers_of(std::vector<SourcePtr> sources, SourceStats& stats) {
  std::vector<Tier> tiers;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    tiers.push_back({std::to_string(i), sources[i], i + 1 == sources.size() ? Trust::kAuthority : Trust::kClaimed});
  }
  return make_tiered(std::move(tiers), stats);
}

SourcePtr cached(std::shared_ptr<PackStore> cache, SourcePtr origin, SourceStats& stats) {
  return make_tiered({cache_tier(std::move(cache)), {"origin", std::move(origin), Trust::kAuthority}}, stats);
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("layers around a source are sources", "[chunkstore]") {
  static SourceStats stats;
  const auto memory = std::make_shared<MemorySource>("memory");
  const auto store = [memory](const Cid& cid, const Bytes& object) { memory->store(cid, object); };
  const TempDirectory temp;
  SECTION("in memory") {
    test::check_object_source([&] { return test::SourceUnderTest{memory, store}; });
  }
  SECTION("tiered") {
    const auto empty = std::make_shared<MemorySource>("empty");
    test::check_object_source([&] { return test::SourceUnderTest{tiers_of({empty, memory}, stats), store}; });
  }
  SECTION("coalescing") {
    test::check_object_source([&] { return test::SourceUnderTest{make_coalescing(memory), store}; });
  }
  SECTION("tiered behind a cache") {
    const auto cache = open_pack_store(temp.path() / "cache", {});
    test::check_object_source([&] { return test::SourceUnderTest{cached(cache, memory, stats), store}; });
  }
  SECTION("a repository") {
    const auto blobs = std::make_shared<test::MemoryStore>();
    test::check_object_source([&] {
      return test::SourceUnderTest{make_repository_source(blobs), [blobs](const Cid& cid, const Bytes& object) {
                                     blobs->put_new(object_name(cid), object);
                                   }};
    });
  }
  SECTION("the whole stack") {
    const auto blobs = std::make_shared<test::MemoryStore>();
    const std::vector<Tier> tiers{settled_tier(open_pack_store(temp.path() / "settled", {.durable = true})),
                                  cache_tier(open_pack_store(temp.path() / "cache", {})),
                                  repository_tier(blobs, stats.link)};
    test::check_object_source([&] {
      return test::SourceUnderTest{open_stack(tiers, stats), [blobs](const Cid& cid, const Bytes& object) {
                                     blobs->put_new(object_name(cid), object);
                                   }};
    });
  }
}

TEST_CASE("a corrupt lookaside copy falls through to the repository", "[chunkstore]") {
  const Bytes good = test::random_bytes(kChunkSize, /*seed=*/7);
  const Cid cid = cid_of(good);
  auto lookaside = std::make_unique<MemorySource>("lookaside");
  auto repository = std::make_unique<MemorySource>("repository");
  auto* asked = repository.get();
  lookaside->store(cid, test::flip_bit(good, 12));

  SECTION("and the caller sees only good bytes") {
    repository->store(cid, good);
    auto source = test::verified_tiers(std::move(lookaside), std::move(repository));
    REQUIRE((source->fetch(cid, Priority::kGuest, {}) == good));
    CHECK(asked->fetches() == 1);
  }
  SECTION("absent there means absent, not an error") {
    auto source = test::verified_tiers(std::move(lookaside), std::move(repository));
    REQUIRE_FALSE(source->fetch(cid, Priority::kGuest, {}).has_value());
  }
  SECTION("corrupt there, too, is an error that names object and source") {
    repository->store(cid, test::flip_bit(good, 13));
    auto source = test::verified_tiers(std::move(lookaside), std::move(repository));
    CHECK((kind_thrown([&] { ask(source, cid); }) == ErrorKind::kCorrupt));
    const std::string message = message_of([&] { ask(source, cid); });
    CHECK(message.find(short_hex(cid.view())) != std::string::npos);
    CHECK(message.find("repository") != std::string::npos);
  }
}

TEST_CASE("an object that is valid under another name is refused and counted", "[chunkstore]") {
  const Sample sample(1);
  const Sample other(2);
  SourceStats stats;
  const auto source = tiers_of({source_with(sample, other.object)}, stats);
  CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kCorrupt));
  CHECK(stats.tier("0").corrupt_refused == 1);
  CHECK(stats.tier("0").hits == 0);
}

TEST_CASE("a repository's blob that cannot be an object is refused", "[chunkstore]") {
  const auto blobs = std::make_shared<test::MemoryStore>();
  const Sample sample;
  const auto source = make_repository_source(blobs);
  for (const std::size_t size : {std::size_t{0}, kMaxObjectSize + 1}) {
    blobs->overwrite(object_name(sample.cid), Bytes(size));
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kCorrupt));
  }
}

TEST_CASE("tiers are asked in order, and the worst failure is told when none has it", "[chunkstore]") {
  const Sample sample;
  SourceStats stats;
  const auto empty = std::make_shared<MemorySource>("empty");
  const auto failing = [&](ErrorKind kind) { return std::make_shared<FaultSource>(empty, kind, 1000); };
  const auto full = source_with(sample, sample.object);

  SECTION("a failing tier does not hide what the next one has") {
    for (const auto kind : {ErrorKind::kTransient, ErrorKind::kIo, ErrorKind::kDenied, ErrorKind::kCorrupt}) {
      CHECK((ask(tiers_of({failing(kind), full}, stats), sample.cid) == sample.object));
    }
  }
  SECTION("the first that has it ends the search") {
    const auto second = source_with(sample, sample.object);
    ask(tiers_of({full, second}, stats), sample.cid);
    CHECK(second->fetches() == 0);
  }
  SECTION("what time may heal comes first") {
    const auto source =
        tiers_of({failing(ErrorKind::kDenied), failing(ErrorKind::kTransient), failing(ErrorKind::kDenied)}, stats);
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kTransient));
  }
  SECTION("but not before a tier that has the object and cannot read it") {
    const auto source = tiers_of({failing(ErrorKind::kIo), failing(ErrorKind::kTransient)}, stats);
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kIo));
  }
  SECTION("absence in the last tier does not hide that an earlier one failed") {
    const auto source = tiers_of({failing(ErrorKind::kIo), empty}, stats);
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kIo));
  }
  SECTION("cancellation ends the search") {
    const auto source = tiers_of({failing(ErrorKind::kCancelled), full}, stats);
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kCancelled));
    CHECK(full->fetches() == 0);
  }
}

TEST_CASE("the cache keeps what the origin gave, and is asked first", "[chunkstore]") {
  const TempDirectory temp;
  const Sample sample;
  SourceStats stats;
  const auto cache = open_pack_store(temp.path() / "cache", {});
  const auto origin = source_with(sample, sample.object, "origin");
  const auto source = cached(cache, origin, stats);
  CHECK((ask(source, sample.cid) == sample.object));
  CHECK((ask(source, sample.cid) == sample.object));
  CHECK(origin->fetches() == 1);
  CHECK(stats.tier("cache").hits == 1);
  CHECK(cache->contains(sample.cid));
  source->drop(sample.cid);
  CHECK(origin->dropped().size() == 1);
}

TEST_CASE("each tier is counted under its name, and a tier that keeps gets what later ones give", "[chunkstore]") {
  const TempDirectory temp;
  const Sample near(1);
  const Sample far(2);
  SourceStats stats;
  const auto settled = open_pack_store(temp.path() / "settled", {.durable = true});
  const auto cache = open_pack_store(temp.path() / "cache", {});
  const auto lookaside = source_with(near, near.object, "lookaside");
  const auto blobs = std::make_shared<test::MemoryStore>();
  blobs->put_new(object_name(near.cid), near.object);
  blobs->put_new(object_name(far.cid), far.object);
  lookaside->store(far.cid, near.object);  // damaged there: counted, and asked for further on
  const auto source = open_stack({settled_tier(settled),
                                  cache_tier(cache),
                                  {"lookaside", lookaside, Trust::kClaimed},
                                  repository_tier(blobs, stats.link)},
                                 stats);
  CHECK((ask(source, near.cid) == near.object));
  CHECK((source->fetch(far.cid, Priority::kReadahead, {}) == far.object));
  CHECK((ask(source, far.cid) == far.object));
  CHECK((cache->contains(near.cid) && cache->contains(far.cid)));
  CHECK_FALSE((settled->contains(near.cid) || settled->contains(far.cid)));

  const FetchStats shown = fetch_stats(stats);
  CHECK(shown.settled_hits == 0);
  CHECK(shown.cache_hits == 1);
  CHECK(shown.repository_fetches == 1);
  CHECK(shown.repository_bytes == far.object.size());
  CHECK(shown.guest_fetches == 0);
  CHECK(shown.corrupt_refused == 1);
  REQUIRE(shown.tiers.size() == 4);
  const TierTotals& third = shown.tiers.at(2);
  CHECK(third.name == "lookaside");
  CHECK((third.hits == 1 && third.bytes == near.object.size()));
  CHECK((third.guest_hits == 1 && third.corrupt_refused == 1));
}

TEST_CASE("a damaged object in the cache is dropped and fetched again", "[chunkstore]") {
  const TempDirectory temp;
  const Sample sample;
  SourceStats stats;
  const auto blobs = std::make_shared<test::MemoryStore>();
  blobs->put_new(object_name(sample.cid), sample.object);
  const auto source =
      open_stack({cache_tier(open_pack_store(temp.path() / "cache", {})), repository_tier(blobs, stats.link)}, stats);
  REQUIRE((ask(source, sample.cid) == sample.object));
  for (const auto& entry : fs::directory_iterator(temp.path() / "cache" / "packs")) {
    const auto fd = open_file(entry.path(), O_RDWR);
    const Bytes damage{static_cast<std::uint8_t>(sample.object[100] ^ 1)};
    write_all_at(fd.get(), damage, 40 + 100, entry.path());
  }
  REQUIRE((ask(source, sample.cid) != sample.object));  // only the tag would tell
  source->drop(sample.cid);
  CHECK((ask(source, sample.cid) == sample.object));
  CHECK((ask(source, sample.cid) == sample.object));
  CHECK(stats.tier("repository").hits == 2);
}

TEST_CASE("a cache that cannot be written does not stand in the way", "[chunkstore]") {
  const TempDirectory temp;
  const Sample sample;
  SourceStats stats;
  const auto cache = open_pack_store(temp.path() / "cache", {});
  fs::remove_all(temp.path() / "cache");
  fs::create_directory_symlink("/", temp.path() / "cache");
  const auto source = cached(cache, source_with(sample, sample.object), stats);
  CHECK((ask(source, sample.cid) == sample.object));
  CHECK((ask(source, sample.cid) == sample.object));
}

TEST_CASE("eight threads that want one object cause one fetch", "[chunkstore]") {
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(memory);
  memory->hold();
  std::atomic<int> begun = 0;
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        ++begun;
        if (ask(source, sample.cid) == sample.object) ++good;
      });
    }
    memory->wait_for_fetches(1);
    while (begun < 8) std::this_thread::yield();
    memory->release();
  }
  CHECK(good == 8);
  // A thread that was begun but had not asked yet when the fetch ended asks anew.
  CHECK(memory->fetches() < 8);
}

TEST_CASE("a failure reaches everyone who waits for it, and the next asks again", "[chunkstore]") {
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(std::make_shared<FaultSource>(memory, ErrorKind::kDenied, 1));
  CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kDenied));
  CHECK((ask(source, sample.cid) == sample.object));
}

TEST_CASE("cancelling one caller leaves the others waiting for the same object", "[chunkstore]") {
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(memory);
  memory->hold();
  std::optional<ErrorKind> first_kind;
  std::optional<Bytes> second_got;
  std::stop_source first_stop;
  std::stop_source second_stop;
  std::jthread first([&] { first_kind = kind_thrown([&] { ask(source, sample.cid, first_stop.get_token()); }); });
  memory->wait_for_fetches(1);

  SECTION("the one who fetches: another takes over") {
    std::jthread second([&] { second_got = ask(source, sample.cid); });
    first_stop.request_stop();
    first.join();
    CHECK((first_kind == ErrorKind::kCancelled));
    memory->wait_for_fetches(2);
    memory->release();
    second.join();
    CHECK((second_got == sample.object));
  }
  SECTION("one who only waits: the fetch goes on") {
    std::optional<ErrorKind> second_kind;
    std::jthread second([&] { second_kind = kind_thrown([&] { ask(source, sample.cid, second_stop.get_token()); }); });
    second_stop.request_stop();
    second.join();
    CHECK((second_kind == ErrorKind::kCancelled));
    CHECK(memory->fetches() == 1);
    memory->release();
    first.join();
    CHECK_FALSE(first_kind.has_value());
  }
}

TEST_CASE("a waiter of higher priority fetches itself when the fetch that it waits for fails", "[chunkstore]") {
  class FailsAhead : public ObjectSource {
   public:
    explicit FailsAhead(SourcePtr inner) : inner_(std::move(inner)) {}
    std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
      auto object = inner_->fetch(cid, priority, std::move(stop));
      if (priority == Priority::kReadahead) throw Error(ErrorKind::kOffline, "not worth waiting for");
      return object;
    }
    std::string describe() const override { return "fails ahead"; }

   private:
    SourcePtr inner_;
  };
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(std::make_shared<FailsAhead>(memory));
  memory->hold();
  std::optional<ErrorKind> ahead_kind;
  std::optional<Bytes> got;
  {
    std::jthread ahead([&] { ahead_kind = kind_thrown([&] { source->fetch(sample.cid, Priority::kReadahead, {}); }); });
    memory->wait_for_fetches(1);
    std::jthread guest([&] { got = ask(source, sample.cid); });
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();  // so that it waits already, most times
    memory->release();
  }
  CHECK((ahead_kind == ErrorKind::kOffline));
  CHECK((got == sample.object));
}

TEST_CASE("without a repository only what is here can be read", "[chunkstore]") {
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

TEST_CASE("while the repository cannot be reached a read fails or waits, as configured", "[chunkstore]") {
  const Sample sample;
  SourceStats stats;
  const auto store = std::make_shared<UnreachableStore>();
  store->put_new(object_name(sample.cid), sample.object);
  const std::vector<Tier> tiers{repository_tier(store, stats.link)};
  StackOptions options{.first_wait = std::chrono::milliseconds(1), .max_wait = std::chrono::milliseconds(2)};

  SECTION("fail: offline, and what is missing is named") {
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
  SECTION("wait: not for what can be left for later") {
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
  SECTION("wait: absence and damage are answers") {
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

TEST_CASE("a repository on a disk that is not plugged in is one that cannot be reached", "[chunkstore]") {
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
