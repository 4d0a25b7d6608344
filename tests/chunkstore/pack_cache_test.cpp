#include "chunkstore/pack_cache.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "base/file.h"
#include "base/sqlite.h"
#include "base/whole_file.h"
#include "chunkstore/pack_bench.h"
#include "chunkstore/pack_disk.h"
#include "chunkstore/pack_pins.h"
#include "chunkstore/pack_space.h"

namespace isr {

using test::blocks_of;
using test::count_absent;
using test::count_good;
using test::disk;
using test::KilledProcess;
using test::put_all;
using test::Sample;
using test::samples;

TEST_CASE("above its limit a cache evicts the least recently used objects", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 10'000);
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 1'000'000, .pack_size = 200'000});
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, {all.begin(), all.begin() + 20}) == 20);  // used now
  const auto more = samples(30, 10'000, /*first_seed=*/1000);
  put_all(*store, more);
  store->sync();
  CHECK(store->stats().bytes <= 1'000'000);
  CHECK(store->stats().evicted >= 30);
  CHECK(count_good(*store, {all.begin(), all.begin() + 20}) == 20);
  CHECK(count_good(*store, more) == 30);
  CHECK(count_good(*store, {all.begin() + 20, all.begin() + 50}) == 0);
  CHECK(count_good(*store, {all.begin() + 64, all.end()}) == 36);
  CHECK(blocks_of(temp.path()) < 1'200'000);
}

TEST_CASE("a cache whose index lacks the eviction order is used as it is", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 10'000);
  {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
  }
  { Database(temp.path() / "index.db", Durability::kRebuildable).execute("DROP INDEX by_access"); }
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 500'000});
  store->sync();
  CHECK(store->stats().bytes <= 500'000);
  CHECK(count_good(*store, all) == store->stats().objects);
  CHECK(count_good(*store, {all.begin() + 64, all.end()}) == 36);  // what was put last
  Database index(temp.path() / "index.db", Durability::kRebuildable);
  Statement plan(index.get(), "EXPLAIN QUERY PLAN SELECT cid FROM objects ORDER BY accessed");
  auto row = plan.use();
  REQUIRE(row.next());
  CHECK(row.text(3).find("by_access") != std::string_view::npos);
}

TEST_CASE("a cache can be read while another process writes its index, and times of use are kept", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(1500, 100);
  {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
  }
  {
    const auto store = open_pack_store(temp.path(), {});
    Database other(temp.path() / "index.db", Durability::kRebuildable);
    const Transaction transaction(other);
    CHECK(count_good(*store, all) == all.size());
  }
  Database index(temp.path() / "index.db", Durability::kRebuildable);
  Statement count(index.get(), "SELECT count(DISTINCT accessed) FROM objects");
  auto row = count.use();
  REQUIRE(row.next());
  CHECK(row.integer(0) == 1500);
}

TEST_CASE("a cache whose limit was lowered keeps the newest objects", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(320, 100'000);
  {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
  }
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 7'000'000});
  store->sync();
  const auto stats = store->stats();
  CHECK(stats.bytes <= 7'000'000);
  CHECK(stats.bytes >= 6'000'000);
  CHECK(stats.evicted == 320 - stats.objects);
  CHECK(count_good(*store, {all.begin() + 260, all.end()}) == 60);
}

TEST_CASE("the amount to evict follows from the limit and from the free space of the disk", "[pack_store]") {
  CHECK(bytes_to_evict(1000, {}, 0, 0) == 0);
  CHECK(bytes_to_evict(1600, {}, 1600, 0) == 0);
  CHECK(bytes_to_evict(1700, {}, 1600, 0) == 200);  // and a sixteenth of the limit
  CHECK(bytes_to_evict(1000, 160, 0, 160) == 0);
  CHECK(bytes_to_evict(1000, 100, 0, 160) == 70);
  CHECK(bytes_to_evict(1700, 100, 1600, 160) == 200);
  CHECK(bytes_to_evict(50, 0, 0, 160) == 50);  // never more than there is
}

TEST_CASE("a cache makes room when the file system is full, but a settled store never does", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(20);
  const std::uint64_t more_than_any_disk = std::uint64_t{1} << 60U;
  const auto cache = open_pack_store(temp.path() / "cache", {.min_free_bytes = more_than_any_disk});
  put_all(*cache, all);
  cache->sync();
  CHECK(cache->stats().objects == 0);
  const auto settled = open_pack_store(temp.path() / "settled",
                                       {.durable = true, .limit_bytes = 1, .min_free_bytes = more_than_any_disk});
  put_all(*settled, all);
  settled->sync();
  CHECK(settled->stats().objects == 20);
}

TEST_CASE("a cache frees space on demand, the least recently used objects first", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 100'000);
  const auto store = open_pack_cache(temp.path(), {.pack_size = 1'000'000});
  put_all(*store, all);
  store->sync();
  const std::uint64_t before = blocks_of(temp.path());
  CHECK(store->make_room(0) == 0);
  CHECK(store->make_room(2'950'000) == 3'000'000);
  CHECK(blocks_of(temp.path()) < before - 2'500'000);
  CHECK(count_absent(*store, {all.begin(), all.begin() + 30}) == 30);
  CHECK(count_good(*store, {all.begin() + 30, all.end()}) == 70);
  CHECK(store->make_room(100'000'000) == 7'000'000);
  CHECK(store->make_room(1) == 0);
}

TEST_CASE("a cache frees space while its index cannot be written", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(50, 100'000);
  const auto store = open_pack_cache(temp.path(), {.pack_size = 1'000'000});
  put_all(*store, all);
  store->sync();
  const std::uint64_t before = blocks_of(temp.path());
  {
    Database other(temp.path() / "index.db", Durability::kRebuildable);
    const Transaction transaction(other);
    CHECK(store->make_room(3'000'000) == 3'000'000);
    CHECK(blocks_of(temp.path()) < before - 2'500'000);
    CHECK(count_good(*store, all) == 20);
    CHECK(store->stats().objects == 20);
  }
  store->sync();
  CHECK(count_good(*open_pack_cache(temp.path(), {}), all) == 20);
}

TEST_CASE("pinned objects are not evicted by any process while their owner exists", "[pack_store]") {
  const TempDirectory temp;
  const fs::path owner = temp.path() / "owner";
  replace_file(owner, as_bytes("here"));
  const auto all = samples(50, 100'000);
  const fs::path directory = temp.path() / "cache";
  KilledProcess other([&] {
    const auto cache = open_pack_cache(directory, {.limit_bytes = 1});
    cache->sync();
    if (cache->make_room(100'000'000) != 0 || cache->stats().objects != 10) ::_exit(1);
    ::raise(SIGKILL);
  });
  const auto store = open_pack_cache(directory, {});
  put_all(*store, all);
  store->sync();
  std::vector<Cid> pinned;
  for (std::size_t i = 0; i < 10; ++i) pinned.push_back(all[i].cid);
  CachePins pins(directory);
  pins.pin("session", owner, pinned);
  CHECK(store->make_room(100'000'000) == 4'000'000);
  other.run();
  CHECK(count_good(*store, {all.begin(), all.begin() + 10}) == 10);
  SECTION("until another list of the same name replaces it") {
    pins.pin("session", owner, std::span(pinned).first(4));
    CHECK(store->make_room(100'000'000) == 600'000);
  }
  SECTION("until the owner is gone") {
    fs::remove(owner);
    CHECK(store->make_room(100'000'000) == 1'000'000);
    CHECK(fs::is_empty(directory / "pins"));
  }
  SECTION("and an invalid list pins nothing") {
    fs::remove(directory / "pins" / "session");
    for (const std::string text : {"", "/", "relative\n", "/no end of line"}) {
      replace_file(directory / "pins" / "x", as_bytes(text));
    }
    CHECK(store->make_room(100'000'000) == 1'000'000);
  }
}

TEST_CASE("a cache full of pinned objects takes no more when the disk has little space", "[pack_store]") {
  const TempDirectory temp;
  const fs::path owner = temp.path() / "owner";
  replace_file(owner, as_bytes("here"));
  const auto pinned = samples(10);
  const auto more = samples(200, 5000, 500);
  const fs::path directory = temp.path() / "cache";
  { put_all(*open_pack_store(directory, {}), pinned); }
  std::vector<Cid> cids;
  for (const Sample& sample : pinned) cids.push_back(sample.cid);
  CachePins(directory).pin("session", owner, cids);
  const auto store = open_pack_store(directory, {.min_free_bytes = std::uint64_t{1} << 60U});
  store->sync();
  put_all(*store, more);
  CHECK(count_absent(*store, more) == more.size());
  CHECK(count_good(*store, pinned) == pinned.size());
}

TEST_CASE("several processes use one cache", "[pack_store]") {
  const TempDirectory temp;
  const auto mine = samples(80);
  const auto theirs = samples(80, 5000, /*first_seed=*/500);
  KilledProcess other([&] {
    const auto child = open_pack_store(temp.path(), {.pack_size = 100'000});
    if (count_good(*child, mine) != mine.size()) ::_exit(1);
    put_all(*child, theirs);
    child->sync();
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(temp.path(), {.pack_size = 100'000});
  put_all(*store, mine);
  store->sync();
  other.run();
  CHECK(count_good(*store, theirs) == theirs.size());
  CHECK(count_good(*store, mine) == mine.size());
}

TEST_CASE("opening, evicting and killed processes never touch a pack that another one writes", "[pack_store]") {
  const TempDirectory temp;
  const auto mine = samples(30);
  KilledProcess other([&] {
    open_pack_store(temp.path(), {.limit_bytes = 1})->sync();
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(temp.path(), {});
  put_all(*store, mine);  // fewer than a batch: only memory knows them
  { open_pack_store(temp.path(), {.limit_bytes = 1})->sync(); }
  other.run();
  CHECK(count_good(*store, mine) == mine.size());
  store->sync();
  const auto second = open_pack_store(temp.path(), {});
  CHECK(count_good(*second, mine) == mine.size());
}

}  // namespace isr
