#include <fcntl.h>
#include <sys/file.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "base/file.h"
#include "base/sqlite.h"
#include "base/whole_file.h"
#include "chunkstore/pack_bench.h"

namespace isr {

using test::ask;
using test::count_absent;
using test::count_good;
using test::damage;
using test::in_killed_process;
using test::kRecordHeader;
using test::kSettledOptions;
using test::packs_of;
using test::put_all;
using test::Sample;
using test::samples;

TEST_CASE("half a record at the end of a pack is cut off", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  const auto options = GENERATE(PackStoreOptions{}, PackStoreOptions{.durable = true});
  in_killed_process([&] {
    const auto store = open_pack_store(temp.path(), options);
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  const auto pack = packs_of(temp.path()).at(0);
  const std::uint64_t record = 5000 + kRecordHeader;
  const std::uint64_t lost = GENERATE(1U, 4999U, 5001U, 5039U);
  fs::resize_file(pack, 10 * record - lost);
  for (int i = 0; i < 2; ++i) {
    const auto store = open_pack_store(temp.path(), options);
    CHECK(count_good(*store, all) == 9);
    CHECK(count_absent(*store, all) == 1);
  }
  if (!options.durable) CHECK(fs::file_size(pack) == 9 * record);
  const auto store = open_pack_store(temp.path(), options);
  put_all(*store, all);
  CHECK(count_good(*store, all) == 10);
}

TEST_CASE("a lost or damaged index is made again from the packs", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(200);
  const auto options =
      GENERATE(PackStoreOptions{.pack_size = 200'000}, PackStoreOptions{.durable = true, .pack_size = 200'000});
  { put_all(*open_pack_store(temp.path(), options), all); }
  const fs::path index = temp.path() / "index.db";
  SECTION("removed") { fs::remove(index); }
  SECTION("truncated to nothing") { fs::resize_file(index, 0); }
  SECTION("cut in the middle") { fs::resize_file(index, 8192); }
  SECTION("replaced by text") { replace_file(index, as_bytes(std::string(5000, 'x'))); }
  SECTION("replaced by another database") {
    fs::remove(index);
    Database other(index, Durability::kRebuildable);
    other.execute("CREATE TABLE t (x); PRAGMA user_version=1");
  }
  SECTION("zeroed in the middle") {
    const auto fd = open_file(index, O_RDWR);
    write_all_at(fd.get(), Bytes(4096), 4096, index);
    write_all_at(fd.get(), Bytes(4096), 8192, index);
  }
  {
    const auto store = open_pack_store(temp.path(), options);
    count_good(*store, all);  // a cache may find the damage only now
    put_all(*store, all);
    CHECK(count_good(*store, all) == all.size());
  }
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("the store is still usable when the index's log is lost", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(200);
  in_killed_process([&] {
    const auto store = open_pack_store(temp.path(), {});
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  fs::remove(temp.path() / "index.db-wal");
  const auto store = open_pack_store(temp.path(), {});
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("bit flips in the index never give wrong bytes", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100, 600);
  { put_all(*open_pack_store(temp.path() / "good", {}), all); }
  const auto size = fs::file_size(temp.path() / "good" / "index.db");
  for (std::uint64_t round = 0; round < 40; ++round) {
    const fs::path copy = temp.path() / "copy";
    fs::remove_all(copy);
    fs::copy(temp.path() / "good", copy, fs::copy_options::recursive);
    damage(copy / "index.db", 100 + round * 7919 % (size - 100));
    const auto store = open_pack_store(copy, {});
    const auto is_good_or_absent = [&](const Sample& sample) {
      const auto object = ask(*store, sample.cid);
      return !object || *object == sample.object;
    };
    CHECK(std::all_of(all.begin(), all.end(), is_good_or_absent));
    store->sync();  // or its thread may be making a new index, and nothing is there meanwhile
    put_all(*store, all);
    store->sync();
    CHECK(count_good(*store, all) >= all.size() - 1);
  }
}

TEST_CASE("an object whose record header is damaged is absent and can be put again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  { put_all(*open_pack_store(temp.path(), {}), all); }
  damage(packs_of(temp.path()).at(0), 3 * (5000 + kRecordHeader) + 20);
  const auto store = open_pack_store(temp.path(), {});
  CHECK_FALSE(ask(*store, all[3].cid).has_value());
  CHECK_FALSE(store->contains(all[3].cid));
  CHECK(count_good(*store, all) == 9);
  store->put(all[3].cid, all[3].object);
  CHECK(count_good(*store, all) == 10);
}

TEST_CASE("drop() forgets a damaged object for good and keeps a good one", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  { put_all(*open_pack_store(temp.path(), {}), all); }
  damage(packs_of(temp.path()).at(0), 3 * (5000 + kRecordHeader) + kRecordHeader + 100);
  {
    const auto store = open_pack_store(temp.path(), {});
    for (const Sample& sample : all) store->drop(sample.cid);
    CHECK(count_good(*store, all) == 9);
    CHECK_FALSE(ask(*store, all[3].cid).has_value());
  }
  fs::remove(temp.path() / "index.db");
  const auto store = open_pack_store(temp.path(), {});
  CHECK(count_good(*store, all) == 9);
  CHECK_FALSE(ask(*store, all[3].cid).has_value());
}

TEST_CASE("settled objects after a damaged one are found without the index", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(20);
  { put_all(*open_pack_store(temp.path(), kSettledOptions), all); }
  const auto pack = packs_of(temp.path()).at(0);
  SECTION("a header") { damage(pack, 3 * (5000 + kRecordHeader), 8); }
  SECTION("an object") { damage(pack, 3 * (5000 + kRecordHeader) + 1000); }
  fs::remove(temp.path() / "index.db");
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  CHECK(count_good(*store, all) == 19);
  CHECK_FALSE(ask(*store, all[3].cid).has_value());
}

TEST_CASE("a wrong row in a settled index is repaired from the packs", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(20);
  { put_all(*open_pack_store(temp.path(), kSettledOptions), all); }
  { Database(temp.path() / "index.db", Durability::kFull).execute("UPDATE objects SET offset = offset + 40"); }
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  CHECK(count_good(*store, all) == 20);
}

TEST_CASE("an index that another process made again is used", "[pack_store]") {
  const TempDirectory temp;
  const auto before = samples(70);
  const auto after = samples(200, 5000, /*first_seed=*/500);
  const auto store = open_pack_store(temp.path(), {});
  put_all(*store, before);
  store->sync();
  fs::remove(temp.path() / "index.db");
  fs::remove(temp.path() / "index.db-wal");
  fs::remove(temp.path() / "index.db-shm");
  { CHECK(count_good(*open_pack_store(temp.path(), {}), before) == before.size()); }
  put_all(*store, after);  // some into the old index, and none while the new one is being opened
  store->sync();
  put_all(*store, after);
  store->sync();
  const auto second = open_pack_store(temp.path(), {});
  CHECK(count_good(*second, before) == before.size());
  CHECK(count_good(*second, after) == after.size());
}

TEST_CASE("other processes only lose the cache when a process is stopped while it repairs the index", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(3);
  PackStoreOptions options;
  options.index_wait = std::chrono::milliseconds(50);
  put_all(*open_pack_store(temp.path(), options), all);
  const auto running = open_pack_store(temp.path(), options);
  std::optional<UniqueFd> stopped(open_file(temp.path() / "lock", O_RDWR));
  REQUIRE(::flock(stopped->get(), LOCK_EX) == 0);
  const auto opened = open_pack_store(temp.path(), options);
  CHECK(count_absent(*opened, all) == 3);
  put_all(*opened, all);
  opened->sync();
  CHECK(count_absent(*opened, all) == 3);

  CHECK(count_good(*running, all) == 3);  // it has no need of the lock

  stopped.reset();
  opened->sync();
  CHECK(count_good(*opened, all) == 3);
}

}  // namespace isr
