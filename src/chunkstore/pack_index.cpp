// Triggers keep the totals of each pack. So they are right whichever process changed the rows, and need no pass over
// the table.
#include "chunkstore/pack_index.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <map>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::int64_t kSchemaVersion = 1;
constexpr std::string_view kSchema = R"sql(
  CREATE TABLE packs (
    id INTEGER PRIMARY KEY, end INTEGER NOT NULL, live INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0);
  CREATE TABLE objects (
    cid BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    accessed INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TRIGGER added AFTER INSERT ON objects BEGIN
    UPDATE packs SET live = live + 1, bytes = bytes + NEW.length WHERE id = NEW.pack; END;
  CREATE TRIGGER removed AFTER DELETE ON objects BEGIN
    UPDATE packs SET live = live - 1, bytes = bytes - OLD.length WHERE id = OLD.pack; END;
)sql";
// Not part of the schema version: isr adds it to an index that lacks it, and older versions of isr keep it up to date,
// too. Without it each eviction sorts the whole table.
constexpr std::string_view kEvictionOrder = "CREATE INDEX IF NOT EXISTS by_access ON objects (accessed)";

std::uint64_t inode_of(const fs::path& file) {
  struct stat status {};
  return ::lstat(file.c_str(), &status) == 0 ? status.st_ino : 0;
}

/// Returns false when the schema exists already.
bool create_schema(Database& db, const fs::path& file) {
  if (db.user_version() == kSchemaVersion) return false;
  Transaction transaction(db);
  const std::int64_t version = db.user_version();  // another process may have created it first
  if (version > kSchemaVersion) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} was written by a newer isr (schema {})", file.string(), version));
  }
  if (version == 0) {
    db.execute(kSchema);
    db.set_user_version(kSchemaVersion);
  }
  transaction.commit();
  return version == 0;
}

/// A row may be damaged. An impossible place becomes one that leads nowhere.
PackPlace read_place(const Statement::Use& row, int column) {
  const std::int64_t offset = row.integer(column + 1);
  const std::int64_t length = row.integer(column + 2);
  if (offset < 0 || length < 0 || length > static_cast<std::int64_t>(kMaxObjectSize))
    return {row.integer(column), 0, 0};
  return {row.integer(column), static_cast<std::uint64_t>(offset), static_cast<std::uint32_t>(length)};
}

std::optional<Cid> read_cid(const Statement::Use& row, int column) {
  const ByteView bytes = row.blob(column);
  if (bytes.size() != Cid::kSize) return std::nullopt;
  Cid cid;
  std::copy(bytes.begin(), bytes.end(), cid.value.begin());
  return cid;
}

std::uint64_t not_negative(std::int64_t value) noexcept { return value < 0 ? 0 : static_cast<std::uint64_t>(value); }

}  // namespace

struct PackIndex::Statements {
  explicit Statements(sqlite3* db)
      : find(db, "SELECT pack, offset, length FROM objects WHERE cid = ?"),
        insert(db, "INSERT INTO objects VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"),
        use(db, "UPDATE objects SET accessed = ?1 WHERE cid = ?2 AND accessed < ?1"),
        remove(db, "DELETE FROM objects WHERE cid = ? AND pack = ? AND offset = ?"),
        grow(db,
             "INSERT INTO packs (id, end) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET end = max(end, excluded.end)") {}

  Statement find, insert, use, remove, grow;
};

PackIndex::PackIndex(const fs::path& file, Durability durability, std::chrono::milliseconds patience)
    : file_(file), db_(file, durability), sql_(nullptr, [](Statements* s) { delete s; }) {
  sqlite3_busy_timeout(db_.get(), static_cast<int>(patience.count()));
  is_new_ = create_schema(db_, file);
  try {
    if (durability == Durability::kRebuildable) db_.execute(kEvictionOrder);  // a durable store never evicts
    sql_.reset(new Statements(db_.get()));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBug) throw;
    // Our SQL is valid, so the schema in the file is not the expected one.
    throw Error(ErrorKind::kCorrupt, error.what());
  }
  inode_ = inode_of(file_);
}

PackIndex::~PackIndex() {
  // The last connection to a file removes its log by name, but that name may be another file's log by now.
  if (replaced()) sqlite3_db_config(db_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
}

bool PackIndex::replaced() const { return inode_of(file_) != inode_; }

void PackIndex::check_integrity() {
  Statement statement(db_.get(), "PRAGMA quick_check(1)");
  auto row = statement.use();
  if (!row.next() || row.text(0) != "ok") {
    throw Error(ErrorKind::kCorrupt, fmt::format("{} is damaged", file_.string()));
  }
}

std::optional<PackPlace> PackIndex::find(const Cid& cid) {
  auto row = sql_->find.use();
  row.bind(cid.view());
  if (!row.next()) return std::nullopt;
  return read_place(row, 0);
}

std::vector<Cid> PackIndex::all() {
  Statement statement(db_.get(), "SELECT cid FROM objects");
  auto row = statement.use();
  std::vector<Cid> cids;
  while (row.next()) {
    if (const auto cid = read_cid(row, 0)) cids.push_back(*cid);
  }
  return cids;
}

std::int64_t PackIndex::last_access() {
  Statement statement(db_.get(), "SELECT max(accessed) FROM objects");
  auto row = statement.use();
  return row.next() ? row.integer(0) : 0;
}

void PackIndex::commit(const Batch& batch) {
  std::map<std::int64_t, std::uint64_t> ends;
  for (const auto& [entry, time] : batch.added) {
    auto& end = ends[entry.place.pack];
    end = std::max(end, entry.place.offset + record_size(entry.place));
  }
  Transaction transaction(db_);
  for (const Entry& entry : batch.removed) remove_one(entry);
  for (const auto& [pack, end] : ends) {
    sql_->grow.use().bind(pack).bind(static_cast<std::int64_t>(end)).run();
  }
  for (const auto& [entry, time] : batch.added) {
    auto use = sql_->insert.use();
    use.bind(entry.cid.view()).bind(entry.place.pack).bind(static_cast<std::int64_t>(entry.place.offset));
    use.bind(std::int64_t{entry.place.length}).bind(time).run();
  }
  for (const Use& used : batch.used) sql_->use.use().bind(used.time).bind(used.cid.view()).run();
  transaction.commit();
}

void PackIndex::set_pack_end(std::int64_t pack, std::uint64_t end) {
  sql_->grow.use().bind(pack).bind(static_cast<std::int64_t>(end)).run();
}

void PackIndex::remove_one(const Entry& entry) {
  auto use = sql_->remove.use();
  use.bind(entry.cid.view()).bind(entry.place.pack).bind(static_cast<std::int64_t>(entry.place.offset)).run();
}

std::vector<PackIndex::Entry> PackIndex::remove(std::span<const Cid> cids) {
  std::vector<Entry> removed;
  Transaction transaction(db_);
  for (const Cid& cid : cids) {
    if (const auto place = find(cid)) {
      removed.push_back({cid, *place});
      remove_one(removed.back());
    }
  }
  transaction.commit();
  return removed;
}

std::vector<PackIndex::Entry> PackIndex::least_recent(std::uint64_t bytes,
                                                      const std::function<bool(const Entry&)>& keep) {
  std::vector<Entry> found;
  Statement statement(db_.get(), "SELECT cid, pack, offset, length FROM objects ORDER BY accessed");
  auto row = statement.use();
  for (std::uint64_t sum = 0; sum < bytes && row.next();) {
    const auto cid = read_cid(row, 0);
    if (!cid) continue;
    const Entry entry{*cid, read_place(row, 1)};
    if (keep(entry)) continue;
    found.push_back(entry);
    sum += entry.place.length;
  }
  return found;
}

std::vector<PackIndex::PackRow> PackIndex::packs() {
  Statement statement(db_.get(), "SELECT id, end, live, bytes FROM packs");
  auto row = statement.use();
  std::vector<PackRow> packs;
  while (row.next()) {
    packs.push_back(
        {row.integer(0), not_negative(row.integer(1)), not_negative(row.integer(2)), not_negative(row.integer(3))});
  }
  return packs;
}

bool PackIndex::forget_if_empty(std::int64_t pack) {
  Transaction transaction(db_);
  // The total cheaply shows that a pack is not empty. Only the rows can show that it is empty.
  Statement statement(db_.get(), R"sql(
    DELETE FROM packs WHERE id = ? AND live <= 0 AND NOT EXISTS (SELECT 1 FROM objects WHERE pack = packs.id))sql");
  statement.use().bind(pack).run();
  const bool forgotten = db_.changes() > 0;
  transaction.commit();
  return forgotten;
}

void PackIndex::forget(std::int64_t pack) {
  Transaction transaction(db_);
  Statement(db_.get(), "DELETE FROM objects WHERE pack = ?").use().bind(pack).run();
  Statement(db_.get(), "DELETE FROM packs WHERE id = ?").use().bind(pack).run();
  transaction.commit();
}

void set_index_aside(const fs::path& file) {
  // The log goes first, because SQLite would apply an old log to a new file of the same name.
  remove_if_exists(file.string() + "-wal");
  remove_if_exists(file.string() + "-shm");
  const std::string aside = file.string() + ".damaged";
  if (::rename(file.c_str(), aside.c_str()) != 0 && errno != ENOENT) {
    throw_errno(fmt::format("cannot set {} aside", file.string()), errno);
  }
}

}  // namespace isr
