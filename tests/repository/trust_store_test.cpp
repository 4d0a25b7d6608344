#include "repository/trust_store.h"

#include <atomic>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "base/sqlite.h"
#include "base/whole_file.h"
#include "repository/blob_store_suite.h"

namespace isr {
namespace {

using test::kind_thrown_by;
using test::text_bytes;

const Key kDevice{.value = {4}};
const std::string kWork = "parcels/4f";

Seen seen_at(std::uint64_t n, const std::string& what = "", std::uint32_t epoch = 1) {
  return {n, sha256(text_bytes(what + std::to_string(n))), epoch, WallTime(std::chrono::seconds(1'700'000'000 + n))};
}

TEST_CASE("the trust store remembers what was seen across processes and restarts", "[repository]") {
  const TempDirectory directory;
  const auto file = directory.path() / "trust";
  TrustStore store(file, kDevice);
  TrustStore other(file, kDevice);
  CHECK_FALSE(store.seen(kWork).has_value());
  store.accept(kWork, seen_at(3));
  store.accept("parcels/other", seen_at(9));
  CHECK(other.seen(kWork)->n == 3);
  other.accept(kWork, seen_at(4));
  CHECK(store.seen(kWork)->n == 4);
  CHECK((store.seen(kWork)->hash == seen_at(4).hash));
  CHECK(TrustStore(file, kDevice).seen("parcels/other")->n == 9);
}

TEST_CASE("older, forked and re-keyed heads are refused and change nothing", "[repository]") {
  const TempDirectory directory;
  TrustStore store(directory.path() / "trust", kDevice);
  store.accept(kWork, seen_at(5, "", 2));
  for (const Seen& bad : {seen_at(4, "", 2), seen_at(5, "fork", 2), seen_at(6, "", 1)}) {
    CHECK(kind_thrown_by([&] { store.check(kWork, bad); }) == ErrorKind::kHistory);
    CHECK(kind_thrown_by([&] { store.accept(kWork, bad); }) == ErrorKind::kHistory);
  }
  CHECK_NOTHROW(store.check(kWork, seen_at(5, "", 2)));
  CHECK_NOTHROW(store.check(kWork, seen_at(6, "", 3)));
  CHECK(store.seen(kWork)->n == 5);

  SECTION("the greatest time stays, whatever later heads say") {
    Seen early = seen_at(6, "", 2);
    early.time = WallTime(std::chrono::seconds(1000));
    store.accept(kWork, early);
    CHECK(store.seen(kWork)->n == 6);
    CHECK((store.seen(kWork)->time == seen_at(5).time));
  }
  SECTION("accept_older is the way out, and is logged with its reason") {
    store.accept_older(kWork, seen_at(2), "restored a backup");
    CHECK(store.seen(kWork)->n == 2);
    CHECK((store.seen(kWork)->time == seen_at(5).time));
    store.accept(kWork, seen_at(3));
    store.accept_older(kWork, seen_at(2, "fork"), "once more");
    Database db(directory.path() / "trust", Durability::kFull);
    Statement statement(db.get(), "SELECT n, reason FROM accepted_older ORDER BY id");
    auto rows = statement.use();
    REQUIRE(rows.next());
    CHECK(rows.integer(0) == 2);
    CHECK(rows.text(1) == "restored a backup");
    REQUIRE(rows.next());
    CHECK(rows.text(1) == "once more");
  }
}

TEST_CASE("rows that were changed, lost or brought back are noticed", "[repository]") {
  const TempDirectory directory;
  const auto file = directory.path() / "trust";
  {
    TrustStore store(file, kDevice);
    store.accept(kWork, seen_at(3));
    store.accept("parcels/other", seen_at(9));
    store.accept_older(kWork, seen_at(2), "reason");
  }
  const std::string sql =
      GENERATE("UPDATE seen SET n = 1 WHERE chain = 'parcels/4f'", "UPDATE seen SET chain = 'parcels/5f' WHERE n = 2",
               "DELETE FROM seen WHERE n = 2", "DELETE FROM seen; DELETE FROM accepted_older",
               "UPDATE seen SET mac = (SELECT mac FROM seen WHERE n = 9)", "UPDATE seen SET epoch = 2",
               "UPDATE seen SET time = 0", "UPDATE seen SET hash = x'00'", "DELETE FROM everything",
               "UPDATE accepted_older SET reason = 'none'", "DELETE FROM accepted_older", "DROP TABLE seen",
               "DROP TABLE everything", "PRAGMA user_version = 0");
  Database(file, Durability::kFull).execute(sql);
  INFO(sql);
  CHECK(kind_thrown_by([&] { TrustStore(file, kDevice).seen(kWork); }) == ErrorKind::kCorrupt);
}

TEST_CASE("a damaged trust store is an error that names its file", "[repository]") {
  const TempDirectory directory;
  const auto file = directory.path() / "trust";
  const auto open_kind = [&] { return kind_thrown_by([&] { TrustStore(file, kDevice); }); };
  SECTION("an empty file does not count as new") { std::ofstream(file).flush(); }
  SECTION("text") { std::ofstream(file) << std::string(5000, 'x'); }
  SECTION("another device's file") { TrustStore(file, Key{.value = {5}}).accept(kWork, seen_at(1)); }
  try {
    TrustStore store(file, kDevice);
    FAIL_CHECK("was accepted");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kCorrupt);
    CHECK_THAT(error.what(), Catch::Contains(file.string()));
    CHECK_THAT(error.hints().at(0), Catch::Contains("accept-older cannot repair it"));
  }
  CHECK(open_kind() == ErrorKind::kCorrupt);
}

TEST_CASE("a refused history names the version to accept, of a parcel or of the list of parcels", "[repository]") {
  const auto [chain, version] = GENERATE(table<std::string, std::string>(
      {{"parcels/4f", " isr accept-older NAME@3 "}, {"users/alice/profile", " isr accept-older --profile 3 "}}));
  try {
    refuse_history(chain, "the repository was rolled back", 3);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::kHistory);
    CHECK_THAT(error.hints().at(1), Catch::Contains(version));
  }
}

TEST_CASE("a damaged file that is moved away as the hint says leaves nothing behind", "[repository]") {
  const TempDirectory directory;
  const auto file = directory.path() / "trust.db";
  const auto log = directory.path() / "trust.db-wal";
  Bytes log_of_killed;
  {
    TrustStore store(file, kDevice);
    store.accept(kWork, seen_at(3));
    log_of_killed = read_file(log, 1 << 20);
  }
  std::ofstream(file) << std::string(5000, 'x');
  replace_file(log, log_of_killed);
  std::string hint;
  try {
    TrustStore store(file, kDevice);
  } catch (const Error& error) {
    hint = error.hints().back();
  }
  REQUIRE(hint.find("mkdir") != std::string::npos);
  CHECK(std::system(hint.substr(hint.find("mkdir")).c_str()) == 0);  // NOLINT(concurrency-mt-unsafe)
  CHECK_FALSE(fs::exists(log));
  CHECK_FALSE(TrustStore(file, kDevice).seen(kWork));
}

TEST_CASE("a bit flipped anywhere in the file is detected or harmless", "[repository]") {
  const TempDirectory directory;
  const auto file = directory.path() / "trust";
  {
    TrustStore store(file, kDevice);
    for (int i = 0; i < 20; ++i) store.accept("parcels/" + std::to_string(i), seen_at(10 + i));
  }
  const Bytes good = read_file(file, 1 << 20);
  const Bytes random = test::random_bytes(4 * 400, 11);
  int detected = 0;
  for (std::size_t i = 0; i < 400; ++i) {
    std::uint32_t bit = 0;
    std::memcpy(&bit, random.data() + 4 * i, sizeof bit);
    // Half of the flips in the first 128 bytes, where SQLite keeps what it must know.
    const std::size_t range = i % 2 == 0 ? 128 * 8 : good.size() * 8;
    for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(file.string() + suffix);
    const Bytes flipped = test::flip_bit(good, bit % range);
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(flipped.data()), static_cast<std::streamsize>(flipped.size()));
    INFO("bit " << bit % range);
    try {
      TrustStore store(file, kDevice);
      for (int k = 0; k < 20; ++k) {
        const auto seen = store.seen("parcels/" + std::to_string(k));
        REQUIRE(seen.has_value());
        CHECK(seen->n == static_cast<std::uint64_t>(10 + k));
        CHECK((seen->hash == seen_at(10 + k).hash));
      }
    } catch (const Error& error) {
      ++detected;
      CHECK(error.kind() != ErrorKind::kBug);
    }
  }
  CHECK(detected > 20);
}

TEST_CASE("a trust store is opened while another process writes to it", "[repository]") {
  const TempDirectory directory;
  const auto file = directory.path() / "trust";
  TrustStore writer(file, kDevice);
  std::atomic<bool> ended{false};
  std::jthread writing([&] {
    for (int n = 1; n <= 200; ++n) writer.accept("parcels/" + std::to_string(n), seen_at(n));
    ended = true;
  });
  int opened = 0;
  for (; !ended; ++opened) TrustStore(file, kDevice).seen("parcels/1");
  CHECK(opened > 0);
}

TEST_CASE("many threads and connections may use one trust store", "[repository]") {
  const TempDirectory directory;
  const auto file = directory.path() / "trust";
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        TrustStore store(file, kDevice);
        for (int n = 1; n <= 10; ++n) store.accept("parcels/" + std::to_string(t), seen_at(n));
      });
    }
  }
  TrustStore store(file, kDevice);
  for (int t = 0; t < 4; ++t) CHECK(store.seen("parcels/" + std::to_string(t))->n == 10);
}

}  // namespace
}  // namespace isr
