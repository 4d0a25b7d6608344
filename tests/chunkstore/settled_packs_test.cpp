#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "base/file.h"
#include "chunkstore/pack_bench.h"
#include "chunkstore/pack_disk.h"
#include "support/descriptor_limit.h"
#include "support/error_kind.h"

namespace isr {

using test::ask;
using test::before_next_read;
using test::copy_after_power_cut;
using test::count_absent;
using test::count_good;
using test::damage;
using test::disk;
using test::fail_directory_syncs;
using test::in_killed_process;
using test::kind_thrown;
using test::kRecordHeader;
using test::kSettledOptions;
using test::packs_of;
using test::put_all;
using test::Sample;
using test::samples;
using test::syncs_kill;

TEST_CASE("a settled object is stored again when a power cut kept its row but lost its bytes", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100);  // one batch is in the index, which is always durable
  const auto store = open_pack_store(temp.path() / "store", kSettledOptions);
  put_all(*store, all);
  SECTION("all of them") { copy_after_power_cut(temp.path() / "store", temp.path() / "copy"); }
  SECTION("only the bytes after a header") {
    fs::copy(temp.path() / "store", temp.path() / "copy", fs::copy_options::recursive);
    damage(packs_of(temp.path() / "copy").at(0), 3 * (5000 + kRecordHeader) + kRecordHeader, 5000);
  }
  const auto after = open_pack_store(temp.path() / "copy", kSettledOptions);
  put_all(*after, all);
  after->sync();
  CHECK(count_good(*after, all) == all.size());
}

TEST_CASE("settled objects of a killed process are durable once they were put again and synced", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "store";
  const auto all = samples(100);
  in_killed_process([&] {
    const auto store = open_pack_store(directory, kSettledOptions);
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(directory, kSettledOptions);
  put_all(*store, all);
  store->sync();
  copy_after_power_cut(directory, temp.path() / "copy");
  CHECK(count_good(*open_pack_store(temp.path() / "copy", kSettledOptions), all) == all.size());
}

TEST_CASE("after a failed sync the next process writes settled objects again before it trusts them", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "store";
  const auto before = samples(10);
  const auto lost = samples(100, 5000, 100);
  const auto put_and_be_killed = [&](bool sync) {
    in_killed_process([&, sync] {
      const auto store = open_pack_store(directory, kSettledOptions);
      put_all(*store, before);
      store->sync();
      put_all(*store, lost);
      if (!sync) ::raise(SIGKILL);
      disk().lock()->fail_syncs = true;
      syncs_kill() = true;  // before what follows a failed sync
      store->sync();
    });
  };
  SECTION("it was killed before the sync") { put_and_be_killed(false); }
  SECTION("it was killed when the sync failed") { put_and_be_killed(true); }
  SECTION("the index is lost, too") {
    put_and_be_killed(true);
    fs::remove(directory / "index.db");
  }
  std::size_t good = 0;
  {
    const auto store = open_pack_store(directory, kSettledOptions);
    good = count_good(*store, lost);
    CHECK(good == lost.size());  // the page cache has them still
  }
  // What this process did not write never reached the disk: so it must have written them all.
  copy_after_power_cut(directory, temp.path() / "copy");
  const auto after = open_pack_store(temp.path() / "copy", kSettledOptions);
  CHECK(count_good(*after, lost) == good);
}

TEST_CASE("a settled pack whose name could not be synced does not count", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(32);
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  fail_directory_syncs() = true;
  CHECK((kind_thrown([&] { store->put(all[0].cid, all[0].object); }) == ErrorKind::kIo));
  CHECK(packs_of(temp.path()).empty());
  fail_directory_syncs() = false;
  CHECK_FALSE(store->contains(all[0].cid));
  put_all(*store, all);
  store->sync();
  CHECK(packs_of(temp.path()).size() == 1);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("settled objects in a new pack are synced when no further file can be opened", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(4, 100'000);
  const auto store = open_pack_store(temp.path(), {.durable = true, .pack_size = 150'000});
  store->put(all[0].cid, all[0].object);
  store->sync();
  store->put(all[1].cid, all[1].object);
  {
    const test::DescriptorLimit none(0);
    CHECK((kind_thrown([&] { store->put(all[2].cid, all[2].object); }) == ErrorKind::kIo));  // it needs a new pack
    store->sync();
  }
  CHECK_FALSE(store->contains(all[2].cid));
  {
    // One for the pack's file, none for its directory.
    const int next = ::dup(0);
    ::close(next);
    const test::DescriptorLimit one(static_cast<rlim_t>(next) + 1);
    store->put(all[2].cid, all[2].object);
    store->sync();
  }
  copy_after_power_cut(temp.path(), temp.path().string() + ".copy");
  const auto after = open_pack_store(temp.path().string() + ".copy", kSettledOptions);
  CHECK(count_good(*after, {all.begin(), all.begin() + 3}) == 3);
  fs::remove_all(temp.path().string() + ".copy");
}

TEST_CASE("a settled object is stored again when its copy cannot be read", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(2, 100'000);
  const PackStoreOptions options{.durable = true, .pack_size = 50'000};
  { put_all(*open_pack_store(temp.path(), options), all); }
  const auto store = open_pack_store(temp.path(), options);
  const auto pack = packs_of(temp.path()).at(0);
  fs::remove(pack);
  fs::create_directory(pack);  // opening it for writing fails, as a bad disk would
  std::size_t refused = 0;
  for (const Sample& sample : all) {
    if (kind_thrown([&] { ask(*store, sample.cid); }) == ErrorKind::kIo) ++refused;
  }
  CHECK(refused == 1);
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("a damaged settled object is an error until it is put again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  { put_all(*open_pack_store(temp.path(), kSettledOptions), all); }
  const auto pack = packs_of(temp.path()).at(0);
  auto store = open_pack_store(temp.path(), kSettledOptions);
  const auto later = samples(10, 5000, 300);
  put_all(*store, later);  // into a second pack
  const std::uint64_t record = 3 * (5000 + kRecordHeader);
  SECTION("its header") { damage(pack, record, 8); }
  SECTION("its bytes, as a reader finds") {
    damage(pack, record + 1000);
    store->drop(all[3].cid);
  }
  CHECK((kind_thrown([&] { ask(*store, all[3].cid); }) == ErrorKind::kIo));
  CHECK((kind_thrown([&] { ask(*store, all[3].cid); }) == ErrorKind::kIo));
  CHECK_FALSE(store->contains(all[3].cid));
  store->put(all[3].cid, all[3].object);
  store->sync();
  const auto newest = samples(10, 5000, 400);
  put_all(*store, newest);
  store->sync();
  for (int opened = 0; opened < 2; ++opened) {
    CHECK(count_good(*store, all) == all.size());
    CHECK(count_good(*store, later) == later.size());
    CHECK(count_good(*store, newest) == newest.size());
    store.reset();
    store = open_pack_store(temp.path(), kSettledOptions);
  }
}

TEST_CASE("objects that a failed sync may have lost are not found in the packs again", "[pack_store]") {
  const TempDirectory temp;
  const auto before = samples(10);
  const auto lost = samples(100, 5000, 100);
  auto store = open_pack_store(temp.path(), kSettledOptions);
  put_all(*store, before);
  store->sync();
  put_all(*store, lost);
  CHECK(store->failed_syncs() == 0);
  disk().lock()->fail_syncs = true;
  CHECK((kind_thrown([&] { store->sync(); }) == ErrorKind::kIo));
  disk().lock()->fail_syncs = false;
  CHECK(store->failed_syncs() == 1);
  CHECK(count_absent(*store, lost) == lost.size());
  SECTION("by this process") {}
  SECTION("by the next process") {
    store.reset();
    store = open_pack_store(temp.path(), kSettledOptions);
  }
  SECTION("by one that lost the index, too") {
    store.reset();
    fs::remove(temp.path() / "index.db");
    store = open_pack_store(temp.path(), kSettledOptions);
  }
  CHECK(count_good(*store, before) == before.size());
  CHECK(count_absent(*store, lost) == lost.size());
  put_all(*store, lost);
  store->sync();
  CHECK(count_good(*store, lost) == lost.size());
}

TEST_CASE("a fetch during a removal does not make the settled index suspicious", "[pack_store]") {
  const TempDirectory temp;
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  const auto all = samples(3);
  put_all(*store, all);
  before_next_read() = [&] { store->remove(std::span(&all[1].cid, 1)); };
  CHECK_FALSE(ask(*store, all[1].cid).has_value());
  CHECK_FALSE(fs::exists(temp.path() / "index.db.damaged"));
  CHECK(count_good(*store, all) == 2);
}

TEST_CASE("a settled store on a full disk asks for room and writes again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(3);
  std::uint64_t can_give = 1;
  int asked = 0;
  PackStoreOptions options{.durable = true};
  options.make_room = [&](std::uint64_t) {
    ++asked;
    return can_give;
  };
  const auto store = open_pack_store(temp.path(), options);
  disk().lock()->full_writes = 2;  // pwritev, and the pwrite that finds out why
  store->put(all[0].cid, all[0].object);
  CHECK(asked == 1);
  can_give = 0;
  disk().lock()->full_writes = 2;
  CHECK((kind_thrown([&] { store->put(all[1].cid, all[1].object); }) == ErrorKind::kIo));
  CHECK(asked == 2);
  disk().lock()->full_writes = 0;
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("only one process may open a settled store", "[pack_store]") {
  const TempDirectory temp;
  const auto store = open_pack_store(temp.path(), kSettledOptions);
  CHECK((kind_thrown([&] { open_pack_store(temp.path(), kSettledOptions); }) == ErrorKind::kVm));
}

}  // namespace isr
