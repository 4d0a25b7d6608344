#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "base/sqlite.h"
#include "base/whole_file.h"
#include "chunkstore/pack_bench.h"
#include "support/error_kind.h"

namespace isr {

using test::ask;
using test::count_good;
using test::kind_thrown;
using test::kSettledOptions;
using test::packs_of;
using test::put_all;
using test::Sample;
using test::samples;

TEST_CASE("files and directories of a store are private, and a cache is tagged as one", "[pack_store]") {
  const TempDirectory temp;
  const mode_t old_mask = ::umask(0);
  { open_pack_store(temp.path() / "cache", {})->put(Sample(1).cid, Sample(1).object); }
  { open_pack_store(temp.path() / "settled", kSettledOptions); }
  ::umask(old_mask);
  CHECK(fs::exists(temp.path() / "cache" / "CACHEDIR.TAG"));
  CHECK_FALSE(fs::exists(temp.path() / "settled" / "CACHEDIR.TAG"));
  CHECK((fs::status(temp.path() / "cache").permissions() == fs::perms::owner_all));
  for (const auto& pack : packs_of(temp.path() / "cache")) {
    CHECK((fs::status(pack).permissions() == (fs::perms::owner_read | fs::perms::owner_write)));
  }
}

TEST_CASE("the rest of a deleted cache becomes a cache again, but settled objects never do", "[pack_store]") {
  const TempDirectory temp;
  const auto all = samples(10);
  const auto options = GENERATE(PackStoreOptions{}, kSettledOptions);
  put_all(*open_pack_store(temp.path(), options), all);
  // As rm -r beside a process that goes on with its packs and its index.
  fs::remove(temp.path() / "format");
  if (options.durable) {
    CHECK((kind_thrown([&] { open_pack_store(temp.path(), options); }) == ErrorKind::kUnsupported));
    return;
  }
  const auto store = open_pack_store(temp.path(), options);
  CHECK(fs::exists(temp.path() / "format"));
  put_all(*store, all);
  store->sync();
  CHECK(count_good(*store, all) == all.size());
}

TEST_CASE("a foreign directory, or one of another version, is refused and not changed", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "store";
  const fs::path format = directory / "format";
  make_private_directory(directory);
  const auto refused = [&] { return kind_thrown([&] { open_pack_store(directory, {}); }) == ErrorKind::kUnsupported; };
  SECTION("other files") {
    replace_file(directory / "thesis.tex", as_bytes("words"));
    CHECK(refused());
    CHECK_FALSE(fs::exists(format));
  }
  SECTION("a newer format") {
    replace_file(format, as_bytes("{\"magic\":\"isr-packs\",\"version\":2,\"use\":\"cache\"}\n"));
    CHECK(refused());
    CHECK(read_file(format, 4096).size() > 10);
  }
  SECTION("a format file that isr did not write") {
    for (const std::string text : {"", "{}", "[]", "1", "null", "{\"magic\":7}", "{\"magic\":\"isr-packs\"}",
                                   "\xff\xfe", "{\"magic\":\"isr-packs\",\"version\":\"1\",\"use\":\"cache\"}"}) {
      replace_file(format, as_bytes(text));
      CHECK(refused());
    }
    replace_file(format, Bytes(1'000'000, '['));
    CHECK(refused());
  }
  SECTION("settled objects opened as a cache") {
    { open_pack_store(directory, kSettledOptions); }
    CHECK(refused());
  }
  SECTION("a newer index") {
    { open_pack_store(directory, {}); }
    { Database(directory / "index.db", Durability::kRebuildable).set_user_version(2); }
    CHECK(refused());
  }
  SECTION("a symlink") {
    fs::create_directory(temp.path() / "elsewhere");
    fs::create_directory_symlink(temp.path() / "elsewhere", temp.path() / "link");
    CHECK((kind_thrown([&] { open_pack_store(temp.path() / "link", {}); }) == ErrorKind::kDenied));
    CHECK(fs::is_empty(temp.path() / "elsewhere"));
  }
}

TEST_CASE("a cache that is deleted while in use is made again", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "cache";
  const auto store = open_pack_store(directory, {});
  const auto before = samples(10);
  put_all(*store, before);
  fs::remove_all(directory);
  count_good(*store, before);  // whatever it answers, it goes on
  const auto after = samples(200, 5000, /*first_seed=*/500);
  put_all(*store, after);  // some are lost until it is noticed
  store->sync();
  put_all(*store, after);
  CHECK(count_good(*store, after) == after.size());
  CHECK(fs::exists(directory / "format"));
}

TEST_CASE("nothing is written through a symlink that replaced the directory", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "cache";
  const fs::path elsewhere = temp.path() / "elsewhere";
  fs::create_directory(elsewhere);
  const auto store = open_pack_store(directory, {});
  put_all(*store, samples(10));
  fs::rename(directory, temp.path() / "moved");
  fs::create_directory_symlink(elsewhere, directory);
  put_all(*store, samples(200, 5000, 500));
  store->sync();
  CHECK(fs::is_empty(elsewhere));
  CHECK_FALSE(ask(*store, Sample(9999).cid).has_value());
}

TEST_CASE("a deleted cache is not made again through a symlink that replaced the parent folder", "[pack_store]") {
  const TempDirectory temp;
  const fs::path above = temp.path() / "isr";
  const fs::path elsewhere = temp.path() / "elsewhere";
  make_private_directory(above);
  make_private_directory(elsewhere);
  const auto store = open_pack_store(above / "cache", {});
  put_all(*store, samples(10));
  fs::remove_all(above);
  fs::create_directory_symlink(elsewhere, above);
  put_all(*store, samples(200, 5000, 500));
  store->sync();
  CHECK(fs::is_empty(elsewhere));
}

TEST_CASE("a deleted directory of settled objects is an error, not a new store", "[pack_store]") {
  const TempDirectory temp;
  const fs::path directory = temp.path() / "settled";
  const auto store = open_pack_store(directory, kSettledOptions);
  put_all(*store, samples(10));
  fs::remove_all(directory);
  CHECK((kind_thrown([&] {
           put_all(*store, samples(200, 5000, 500));
           store->sync();
         }) == ErrorKind::kIo));
}

}  // namespace isr
