#pragma once

#include <sqlite3.h>

#include <filesystem>
#include <memory>
#include <string_view>

#include "base/bytes.h"

namespace isr {

/// A prepared statement; it must not outlive its connection.
class Statement {
 public:
  Statement(sqlite3* db, std::string_view sql);  ///< throws Error{kBug} on bad SQL

  /// One execution. The destructor resets the statement, so no half-read row keeps a read lock. Views from blob() and
  /// text() are valid until the next step, at most as long as the Use.
  class Use {
   public:
    explicit Use(sqlite3_stmt* stmt) noexcept : stmt_(stmt) {}
    ~Use() {
      sqlite3_reset(stmt_);
      sqlite3_clear_bindings(stmt_);
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    Use& bind(std::int64_t value);
    Use& bind(ByteView value);          ///< copies
    Use& bind(std::string_view value);  ///< copies
    /// Returns true when a row is ready, and false at the end and on every later call. Error{kCorrupt} for a damaged
    /// file, {kBug} for bad SQL, {kIo} for the rest.
    bool next();
    void run() {
      while (next()) {
      }
    }
    std::int64_t integer(int column) const;
    ByteView blob(int column) const;
    std::string_view text(int column) const;

   private:
    sqlite3_stmt* stmt_;  // borrowed from Statement
    int bound_ = 0;
    bool done_ = false;
  };
  Use use() { return Use(stmt_.get()); }

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* s) const noexcept { sqlite3_finalize(s); }
  };
  std::unique_ptr<sqlite3_stmt, Finalize> stmt_;
};

enum class Durability {
  kRebuildable,  ///< WAL, synchronous=NORMAL: for caches
  kFull,         ///< WAL, synchronous=FULL: a commit survives a power cut
};

/// One connection. Waits up to 10 s for another process's write lock.
/// Threads: one at a time; put it in a Sync<>.
class Database {
 public:
  /// Opens or creates the file. Error{kCorrupt} when it is not a database.
  Database(const std::filesystem::path& path, Durability durability);
  sqlite3* get() const noexcept { return db_.get(); }
  void execute(std::string_view sql);  ///< one or more statements without results
  std::int64_t changes() const noexcept { return sqlite3_changes(db_.get()); }
  std::int64_t user_version();
  void set_user_version(std::int64_t version);

 private:
  struct Close {
    void operator()(sqlite3* db) const noexcept { sqlite3_close_v2(db); }
  };
  std::unique_ptr<sqlite3, Close> db_;
};

/// BEGIN IMMEDIATE … COMMIT; rolled back unless commit() was called.
class Transaction {
 public:
  explicit Transaction(Database& db) : db_(&db) { db.execute("BEGIN IMMEDIATE"); }
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database* db_;
};

}  // namespace isr
