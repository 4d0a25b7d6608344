// SQLite follows symlinks and creates files with mode 0644 by default. So the file is created here first, and the
// symlinks of the parent are resolved so that NOFOLLOW applies to the last component only. An existing file is never
// opened here, because closing it would drop the POSIX locks of this process's other connections to it.
#include "base/sqlite.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <chrono>
#include <limits>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/file.h"

namespace isr {
namespace {

constexpr int kBusyTimeoutMs = 10'000;

ErrorKind kind_of(int code) noexcept {
  switch (code & 0xff) {  // the low byte of an extended code
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return ErrorKind::kCorrupt;
    case SQLITE_ERROR:
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
      return ErrorKind::kBug;
    default:
      return ErrorKind::kIo;
  }
}

[[noreturn]] void fail(sqlite3* db, int code) {
  const char* const name = db == nullptr ? nullptr : sqlite3_db_filename(db, "main");
  const char* const text = db == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(db);
  const std::string what = fmt::format("database {}: {}", name == nullptr ? "" : name, text);
  if ((code & 0xff) == SQLITE_FULL) throw NoSpaceError(what);
  throw Error(kind_of(code), what);
}

void check(sqlite3_stmt* stmt, int code) {
  if (code != SQLITE_OK) fail(sqlite3_db_handle(stmt), code);
}

/// False when it exists already.
bool create_private(const fs::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd && errno != EEXIST) throw_errno(fmt::format("cannot create {}", path.string()), errno);
  return static_cast<bool>(fd);
}

fs::path with_resolved_parent(const fs::path& path) {
  std::error_code error;
  const fs::path parent = fs::canonical(path.has_parent_path() ? path.parent_path() : fs::path("."), error);
  if (error) throw_errno(fmt::format("cannot open {}", path.string()), error.value());
  return parent / path.filename();
}

/// Turns WAL on; returns false when the file system cannot do it. When several connections open a new database at once,
/// SQLite answers BUSY here without asking the busy handler.
bool switch_to_wal(sqlite3* db) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kBusyTimeoutMs);
  for (;;) {
    try {
      Statement statement(db, "PRAGMA journal_mode=WAL");
      auto row = statement.use();
      return row.next() && row.text(0) == "wal";
    } catch (const Error&) {
      if ((sqlite3_errcode(db) & 0xff) != SQLITE_BUSY || std::chrono::steady_clock::now() > deadline) throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace

Statement::Statement(sqlite3* db, std::string_view sql) {
  sqlite3_stmt* raw = nullptr;
  const char* tail = nullptr;
  const int code = sqlite3_prepare_v2(db, sql.data(), static_cast<int>(sql.size()), &raw, &tail);
  stmt_.reset(raw);
  if (code != SQLITE_OK) fail(db, code);
  const auto rest = sql.substr(static_cast<std::size_t>(tail - sql.data()));
  if (raw == nullptr || rest.find_first_not_of(" \n\t;") != std::string_view::npos) {
    throw Error(ErrorKind::kBug, fmt::format("not exactly one SQL statement: {}", sql));
  }
}

Statement::Use& Statement::Use::bind(std::int64_t value) {
  check(stmt_, sqlite3_bind_int64(stmt_, ++bound_, value));
  return *this;
}

Statement::Use& Statement::Use::bind(ByteView value) {
  const void* const data = value.empty() ? "" : static_cast<const void*>(value.data());  // null would bind NULL
  check(stmt_, sqlite3_bind_blob64(stmt_, ++bound_, data, value.size(), SQLITE_TRANSIENT));
  return *this;
}

Statement::Use& Statement::Use::bind(std::string_view value) {
  const char* const data = value.empty() ? "" : value.data();
  check(stmt_, sqlite3_bind_text64(stmt_, ++bound_, data, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}

bool Statement::Use::next() {
  if (done_) return false;  // one more step would run the statement again
  const int code = sqlite3_step(stmt_);
  if (code == SQLITE_ROW) return true;
  done_ = true;
  if (code != SQLITE_DONE) fail(sqlite3_db_handle(stmt_), code);
  return false;
}

std::int64_t Statement::Use::integer(int column) const { return sqlite3_column_int64(stmt_, column); }

ByteView Statement::Use::blob(int column) const {
  const auto* const data = static_cast<const std::uint8_t*>(sqlite3_column_blob(stmt_, column));
  if (data == nullptr) return {};
  return {data, static_cast<std::size_t>(sqlite3_column_bytes(stmt_, column))};
}

std::string_view Statement::Use::text(int column) const {
  const auto* const data = reinterpret_cast<const char*>(sqlite3_column_text(stmt_, column));
  if (data == nullptr) return {};
  return {data, static_cast<std::size_t>(sqlite3_column_bytes(stmt_, column))};
}

Database::Database(const std::filesystem::path& path, Durability durability) {
  const fs::path file = with_resolved_parent(path);
  create_private(file);
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(file.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, nullptr);
  db_.reset(raw);
  if (code != SQLITE_OK) {
    throw Error(kind_of(code), fmt::format("cannot open database {}: {}", path.string(), sqlite3_errstr(code)));
  }
  sqlite3_extended_result_codes(raw, 1);
  sqlite3_busy_timeout(raw, kBusyTimeoutMs);
  execute("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON");  // the file may be damaged or not ours
  const bool wal = switch_to_wal(raw);
  // Without WAL, NORMAL does not protect against damage.
  const bool full = durability == Durability::kFull || !wal;
  execute(full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
}

void Database::execute(std::string_view sql) {
  const int code = sqlite3_exec(db_.get(), std::string(sql).c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail(db_.get(), code);
}

std::int64_t Database::user_version() {
  Statement statement(get(), "PRAGMA user_version");
  auto row = statement.use();
  return row.next() ? row.integer(0) : 0;
}

void Database::set_user_version(std::int64_t version) {
  if (version < 0 || version > std::numeric_limits<std::int32_t>::max()) {
    throw Error(ErrorKind::kBug, fmt::format("database schema version {} does not fit", version));
  }
  execute(fmt::format("PRAGMA user_version={}", version));
}

Transaction::~Transaction() {
  // A failed statement may have rolled back already; then there is nothing to do.
  if (db_ != nullptr && sqlite3_get_autocommit(db_->get()) == 0) {
    sqlite3_exec(db_->get(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
}

void Transaction::commit() {
  if (db_ == nullptr) throw Error(ErrorKind::kBug, "a transaction was committed twice");
  db_->execute("COMMIT");
  db_ = nullptr;
}

}  // namespace isr
