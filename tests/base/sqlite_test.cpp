#include "base/sqlite.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "base/whole_file.h"
#include "support/bytes.h"
#include "support/error_kind.h"

using namespace isr;

namespace {

std::int64_t single_integer(Database& db, std::string_view sql) {
  Statement statement(db.get(), sql);
  auto row = statement.use();
  REQUIRE(row.next());
  return row.integer(0);
}

unsigned mode_of(const fs::path& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777U;
}

}  // namespace

TEST_CASE("values are read back from a database as they were written", "[base][sqlite]") {
  const TempDirectory dir;
  Database db(dir.path() / "x.db", Durability::kFull);
  db.execute("CREATE TABLE t(i INTEGER, b BLOB NOT NULL, s TEXT NOT NULL); CREATE INDEX t_i ON t(i)");
  const Bytes blob{0, 1, 0, 255};
  Statement insert(db.get(), "INSERT INTO t VALUES(?,?,?)");
  insert.use().bind(std::numeric_limits<std::int64_t>::min()).bind(blob).bind(std::string_view("a\0b", 3)).run();
  CHECK(db.changes() == 1);
  insert.use().bind(2).bind(ByteView{}).bind(std::string_view{}).run();  // empty is not NULL

  Statement select(db.get(), "SELECT i, b, s FROM t ORDER BY i");
  auto row = select.use();
  REQUIRE(row.next());
  CHECK(row.integer(0) == std::numeric_limits<std::int64_t>::min());
  CHECK((to_bytes(row.blob(1)) == blob));
  CHECK((row.text(2) == std::string_view("a\0b", 3)));
  REQUIRE(row.next());
  CHECK(row.blob(1).empty());
  CHECK(row.text(2).empty());
  CHECK_FALSE(row.next());
}

TEST_CASE("a finished statement does not run again", "[base][sqlite]") {
  const TempDirectory dir;
  Database db(dir.path() / "x.db", Durability::kRebuildable);
  db.execute("CREATE TABLE t(i)");
  Statement insert(db.get(), "INSERT INTO t VALUES(1)");
  {
    auto use = insert.use();
    CHECK_FALSE(use.next());
    CHECK_FALSE(use.next());
  }
  CHECK(single_integer(db, "SELECT count(*) FROM t") == 1);
  insert.use().run();
  CHECK(single_integer(db, "SELECT count(*) FROM t") == 2);
}

TEST_CASE("a use leaves no binding and no read lock behind", "[base][sqlite]") {
  const TempDirectory dir;
  Database db(dir.path() / "x.db", Durability::kRebuildable);
  db.execute("CREATE TABLE t(i); INSERT INTO t VALUES(1),(2)");
  Statement echo(db.get(), "SELECT ?1 IS NULL");
  echo.use().bind(5).next();
  auto again = echo.use();
  REQUIRE(again.next());
  CHECK(again.integer(0) == 1);
  Statement select(db.get(), "SELECT i FROM t");
  select.use().next();  // half read
  CHECK(sqlite3_stmt_busy(sqlite3_next_stmt(db.get(), nullptr)) == 0);
}

TEST_CASE("a transaction happens wholly or not at all", "[base][sqlite]") {
  const TempDirectory dir;
  Database db(dir.path() / "x.db", Durability::kFull);
  db.execute("CREATE TABLE t(i)");
  {
    Transaction transaction(db);
    db.execute("INSERT INTO t VALUES(1)");
  }
  CHECK(single_integer(db, "SELECT count(*) FROM t") == 0);
  {
    Transaction transaction(db);
    db.execute("INSERT INTO t VALUES(1)");
    transaction.commit();
    CHECK((test::kind_thrown([&] { transaction.commit(); }) == ErrorKind::kBug));
  }
  CHECK(single_integer(db, "SELECT count(*) FROM t") == 1);
  {
    Transaction transaction(db);
    db.execute("ROLLBACK");  // as SQLite does by itself after some failures
  }
  CHECK_NOTHROW(Transaction(db));
}

TEST_CASE("the schema version is kept", "[base][sqlite]") {
  const TempDirectory dir;
  {
    Database db(dir.path() / "x.db", Durability::kFull);
    CHECK(db.user_version() == 0);
    db.set_user_version(42);
    CHECK((test::kind_thrown([&] { db.set_user_version(std::int64_t{1} << 32U); }) == ErrorKind::kBug));
  }
  CHECK(Database(dir.path() / "x.db", Durability::kFull).user_version() == 42);
}

TEST_CASE("the requested durability is set", "[base][sqlite]") {
  const TempDirectory dir;
  Database cache(dir.path() / "cache.db", Durability::kRebuildable);
  Database store(dir.path() / "store.db", Durability::kFull);
  CHECK(single_integer(cache, "PRAGMA synchronous") == 1);
  CHECK(single_integer(store, "PRAGMA synchronous") == 2);
  Statement mode(store.get(), "PRAGMA journal_mode");
  auto row = mode.use();
  REQUIRE(row.next());
  CHECK(row.text(0) == "wal");
}

TEST_CASE("bad SQL is a kBug", "[base][sqlite]") {
  const TempDirectory dir;
  Database db(dir.path() / "x.db", Durability::kRebuildable);
  for (const auto* sql : {"SELEKT 1", "SELECT * FROM nowhere", "SELECT 1; SELECT 2", "", "-- nothing"}) {
    CAPTURE(sql);
    CHECK((test::kind_thrown([&] { Statement(db.get(), sql); }) == ErrorKind::kBug));
  }
  CHECK_NOTHROW(Statement(db.get(), "SELECT 1 ; "));
  CHECK((test::kind_thrown([&] { db.execute("CREATE nonsense"); }) == ErrorKind::kBug));
  Statement one(db.get(), "SELECT 1");
  CHECK((test::kind_thrown([&] { one.use().bind(1); }) == ErrorKind::kBug));
  std::string longer = "SELECT 1xyz";  // a view need not end in NUL
  CHECK_NOTHROW(Statement(db.get(), std::string_view(longer).substr(0, 8)));
}

TEST_CASE("a file that is not a database is corrupt", "[base][sqlite]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x.db";
  replace_file(path, test::random_bytes(8192, 1));
  CHECK((test::kind_thrown([&] { Database(path, Durability::kFull); }) == ErrorKind::kCorrupt));
}

TEST_CASE("a database that is damaged inside is corrupt", "[base][sqlite]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x.db";
  {
    Database db(path, Durability::kFull);
    db.execute("CREATE TABLE t(b BLOB)");
    Transaction transaction(db);
    Statement insert(db.get(), "INSERT INTO t VALUES(?)");
    for (std::uint64_t i = 0; i < 100; ++i) insert.use().bind(test::random_bytes(1000, i)).run();
    transaction.commit();
  }
  const auto damage = [&](std::uint64_t from) {
    const UniqueFd fd = open_file(path, O_RDWR);
    const std::uint64_t size = file_size(fd.get(), path);
    REQUIRE(size > 50'000);
    write_all_at(fd.get(), Bytes(size - from, 0xee), from, path);
  };
  const auto read_all = [&] {
    Database db(path, Durability::kFull);
    Statement select(db.get(), "SELECT b FROM t");
    select.use().run();
  };
  REQUIRE_FALSE(test::kind_thrown(read_all).has_value());
  SECTION("in its pages") {
    damage(4096);
    CHECK((test::kind_thrown(read_all) == ErrorKind::kCorrupt));
  }
  SECTION("in its schema") {
    damage(100);
    CHECK((test::kind_thrown(read_all) == ErrorKind::kCorrupt));
  }
  SECTION("by being cut") {
    fs::resize_file(path, 8192);
    CHECK((test::kind_thrown(read_all) == ErrorKind::kCorrupt));
  }
}

TEST_CASE("a full or busy database is an I/O error", "[base][sqlite]") {
  const TempDirectory dir;
  Database db(dir.path() / "x.db", Durability::kFull);
  db.execute("CREATE TABLE t(b)");
  SECTION("full") {
    db.execute("PRAGMA max_page_count=3");
    CHECK((test::kind_thrown([&] { db.execute("INSERT INTO t VALUES(zeroblob(100000))"); }) == ErrorKind::kIo));
    db.execute("PRAGMA max_page_count=1000");
    CHECK_NOTHROW(db.execute("INSERT INTO t VALUES(zeroblob(100000))"));
  }
  SECTION("busy for too long") {
    Database other(dir.path() / "x.db", Durability::kFull);
    sqlite3_busy_timeout(other.get(), 0);  // instead of 10 s
    Transaction transaction(db);
    CHECK((test::kind_thrown([&] { Transaction second(other); }) == ErrorKind::kIo));
  }
}

TEST_CASE("many connections may open and write one new database at the same time", "[base][sqlite]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x.db";
  constexpr int kThreads = 8;
  constexpr int kRounds = 20;
  parallel_for(kThreads, kThreads, [&](std::size_t) {
    Database db(path, Durability::kRebuildable);
    db.execute("CREATE TABLE IF NOT EXISTS t(i INTEGER)");
    for (int i = 0; i < kRounds; ++i) {
      Transaction transaction(db);
      db.execute("INSERT INTO t SELECT count(*) FROM t");
      transaction.commit();
    }
  });
  Database db(path, Durability::kRebuildable);
  CHECK(single_integer(db, "SELECT count(DISTINCT i) FROM t") == kThreads * kRounds);
}

TEST_CASE("a database is private, and a symlink is refused", "[base][sqlite]") {
  const TempDirectory dir;
  const auto path = dir.path() / "x.db";
  const auto old_umask = ::umask(0);
  Database db(path, Durability::kFull);
  db.execute("CREATE TABLE t(i)");
  ::umask(old_umask);
  CHECK(mode_of(path) == 0600);
  CHECK(mode_of(path.string() + "-wal") == 0600);
  CHECK(mode_of(path.string() + "-shm") == 0600);

  fs::create_symlink(path, dir.path() / "link.db");
  CHECK((test::kind_thrown([&] { Database(dir.path() / "link.db", Durability::kFull); }) == ErrorKind::kIo));
  fs::create_symlink(dir.path() / "absent", dir.path() / "dangling.db");
  CHECK((test::kind_thrown([&] { Database(dir.path() / "dangling.db", Durability::kFull); }) == ErrorKind::kIo));
  CHECK_FALSE(fs::exists(dir.path() / "absent"));

  SECTION("but a symlink above it is followed") {
    fs::create_directory_symlink(dir.path(), dir.path() / "here");
    CHECK_NOTHROW(Database(dir.path() / "here" / "y.db", Durability::kFull));
    CHECK(fs::exists(dir.path() / "y.db"));
  }
  SECTION("and a missing directory is named") {
    CHECK_THROWS_WITH(Database(dir.path() / "no" / "x.db", Durability::kFull), Catch::Contains("no/x.db"));
  }
}
