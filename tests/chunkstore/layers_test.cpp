#include <fcntl.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "chunkstore/layers_bench.h"
#include "chunkstore/object_source_suite.h"
#include "support/error_kind.h"
#include "support/memory_source.h"
#include "support/memory_store.h"

namespace isr {

using test::ask;
using test::cached;
using test::FaultSource;
using test::kind_thrown;
using test::MemorySource;
using test::message_of;
using test::source_with;
using test::tiers_of;
using Sample = test::LayerSample;

TEST_CASE("layers around a source keep the contract of a source", "[chunkstore]") {
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
  SECTION("corrupt there, too: an error names the object and the source") {
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

TEST_CASE("a blob of a repository that cannot be an object is refused", "[chunkstore]") {
  const auto blobs = std::make_shared<test::MemoryStore>();
  const Sample sample;
  const auto source = make_repository_source(blobs);
  for (const std::size_t size : {std::size_t{0}, kMaxObjectSize + 1}) {
    blobs->overwrite(object_name(sample.cid), Bytes(size));
    CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kCorrupt));
  }
}

TEST_CASE("tiers are asked in order, and the worst failure is reported when none has the object", "[chunkstore]") {
  const Sample sample;
  SourceStats stats;
  const auto empty = std::make_shared<MemorySource>("empty");
  const auto failing = [&](ErrorKind kind) { return std::make_shared<FaultSource>(empty, kind, 1000); };
  const auto full = source_with(sample, sample.object);

  SECTION("a failing tier does not hide an object in the next one") {
    for (const auto kind : {ErrorKind::kTransient, ErrorKind::kIo, ErrorKind::kDenied, ErrorKind::kCorrupt}) {
      CHECK((ask(tiers_of({failing(kind), full}, stats), sample.cid) == sample.object));
    }
  }
  SECTION("the first tier that has the object ends the search") {
    const auto second = source_with(sample, sample.object);
    ask(tiers_of({full, second}, stats), sample.cid);
    CHECK(second->fetches() == 0);
  }
  SECTION("a failure that may pass by itself comes first") {
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

TEST_CASE("the cache keeps objects from the origin, and is asked first", "[chunkstore]") {
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

TEST_CASE("each tier is counted under its name, and a caching tier gets the objects of later tiers", "[chunkstore]") {
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

TEST_CASE("a cache that cannot be written does not make reads fail", "[chunkstore]") {
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

}  // namespace isr
