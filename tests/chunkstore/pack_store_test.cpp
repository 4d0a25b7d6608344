#include "chunkstore/pack_store.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <thread>

#include "base/file.h"
#include "chunkstore/object_source_suite.h"
#include "chunkstore/pack_bench.h"
#include "chunkstore/pack_space.h"
#include "support/error_kind.h"

namespace isr {

using test::ask;
using test::blocks_of;
using test::count_good;
using test::in_killed_process;
using test::kind_thrown;
using test::kRecordHeader;
using test::packs_of;
using test::put_all;
using test::Sample;
using test::samples;

TEST_CASE("a pack store keeps the contract of a source", "[pack_store]") {
  const TempDirectory temp;
  for (const bool durable : {false, true}) {
    std::shared_ptr<PackStore> store =
        open_pack_store(temp.path() / (durable ? "settled" : "cache"), {.durable = durable});
    test::check_object_source([&] {
      return test::SourceUnderTest{store, [store](const Cid& cid, const Bytes& object) { store->put(cid, object); }};
    });
  }
}

TEST_CASE("objects are still there after closing and opening again", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(150);
  const auto options = GENERATE(PackStoreOptions{}, PackStoreOptions{.durable = true, .pack_size = 100'000});
  {
    const auto store = open_pack_store(temp.path(), options);
    put_all(*store, all);
    put_all(*store, all);  // present: nothing happens
    CHECK(store->stats().objects == all.size());
    store->sync();
  }
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
  CHECK(store->all().size() == all.size());
  CHECK(store->stats().objects == all.size());
  CHECK(store->stats().bytes == all.size() * 5000);
  CHECK(store->contains(all[3].cid));
  CHECK_FALSE(store->contains(Sample(999).cid));
}

TEST_CASE("a killed process loses no object that it put", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100);  // one batch in the index, the rest only in the pack
  const auto options = GENERATE(PackStoreOptions{}, PackStoreOptions{.durable = true});
  in_killed_process([&] {
    const auto store = open_pack_store(temp.path(), options);
    put_all(*store, all);
    ::raise(SIGKILL);
  });
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("a pack that disappears takes only its own objects with it", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(100);
  { put_all(*open_pack_store(temp.path(), {.pack_size = 100'000}), all); }
  const auto packs = packs_of(temp.path());
  REQUIRE(packs.size() >= 4);
  std::shared_ptr<PackStore> store;
  SECTION("before opening") {
    fs::remove(packs[1]);
    store = open_pack_store(temp.path(), {});
  }
  SECTION("while open") {
    store = open_pack_store(temp.path(), {});
    fs::remove(packs[1]);
  }
  const auto good = count_good(*store, all);
  CHECK(good < 100);
  CHECK(good >= 70);
  put_all(*store, all);
  CHECK(count_good(*store, all) == 100);
}

TEST_CASE("removed objects are gone, and their space is free", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(40, 100'000);
  const auto options =
      GENERATE(PackStoreOptions{.pack_size = 1'000'000}, PackStoreOptions{.durable = true, .pack_size = 1'000'000});
  auto store = open_pack_store(temp.path(), options);
  put_all(*store, all);
  const std::uint64_t before = blocks_of(temp.path());
  std::vector<Cid> odd;
  std::vector<Cid> even;
  for (std::size_t i = 0; i < all.size(); ++i) (i % 2 == 0 ? even : odd).push_back(all[i].cid);
  store->remove(odd);
  CHECK(store->stats().objects == 20);
  CHECK(count_good(*store, all) == 20);
  CHECK(blocks_of(temp.path()) < before * 6 / 10);
  SECTION("even when the index was made again") {
    store.reset();
    fs::remove(temp.path() / "index.db");
    store = open_pack_store(temp.path(), options);
    CHECK(count_good(*store, all) == 20);
    CHECK(store->all().size() == 20);
  }
  store->remove(even);
  CHECK(store->stats().objects == 0);
  CHECK(packs_of(temp.path()).size() <= 1);  // at most the one that is appended to
  store.reset();
  open_pack_store(temp.path(), options);
  CHECK(packs_of(temp.path()).empty());
}

TEST_CASE("on a full disk settled objects are refused, a cache keeps no more, and existing objects stay good",
          "[pack_store]") {
  const TempDirectory temp;
  const bool durable = GENERATE(false, true);
  const PackStoreOptions options{.durable = durable};
  const auto all = samples(50);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    try {
      const auto store = open_pack_store(temp.path(), options);
      put_all(*store, {all.begin(), all.begin() + 20});
      store->sync();
      const rlimit limit{20 * (5000 + kRecordHeader) + 777, RLIM_INFINITY};
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
      const auto kind = kind_thrown([&] { store->put(all[20].cid, all[20].object); });
      if (kind != (durable ? std::optional(ErrorKind::kIo) : std::nullopt)) ::_exit(3);
      if (ask(*store, all[20].cid)) ::_exit(4);
      const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
      if (::setrlimit(RLIMIT_FSIZE, &none) != 0) ::_exit(5);
      put_all(*store, all);
      if (count_good(*store, all) != all.size()) ::_exit(6);
    } catch (...) {
      ::_exit(7);
    }
    ::raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CAPTURE(status);
  CHECK(WIFSIGNALED(status));
  const auto store = open_pack_store(temp.path(), options);
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("many threads put and fetch at once", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(200, 3000);
  const auto store = open_pack_store(temp.path(), {.limit_bytes = 400'000, .pack_size = 50'000});
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < 400; ++i) {
          const Sample& sample = all[(i * (2 * t + 1)) % all.size()];
          store->put(sample.cid, sample.object);
          const auto got = ask(*store, sample.cid);
          if (got && got != sample.object) ++wrong;
          if (i % 50 == 0) store->drop(sample.cid);
        }
      });
    }
  }
  CHECK(wrong == 0);
  store->sync();
  CHECK(store->stats().bytes <= 400'000);
}

TEST_CASE("putting bytes that cannot be an object is a kBug", "[pack_store]") {
  const TempDirectory temp;
  const auto store = open_pack_store(temp.path(), {});
  CHECK((kind_thrown([&] { store->put(Cid{}, {}); }) == ErrorKind::kBug));
  const Bytes huge(kMaxObjectSize + 1);
  CHECK((kind_thrown([&] { store->put(cid_of(huge), huge); }) == ErrorKind::kBug));
}

}  // namespace isr
