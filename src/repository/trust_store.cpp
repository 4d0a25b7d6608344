// SQLite has no page checksums: a flipped bit may change a row, hide one or bring back an old one. So each row carries
// a MAC, and one more MAC covers the set of rows. There are few rows (one a chain), so every call reads and checks them
// all. Several processes may use one file.
//
// The file is made under another name and moved into place whole. So a file of size 0 is always damaged, never an
// interrupted creation.
#include "repository/trust_store.h"

#include <fmt/format.h>

#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/sqlite.h"
#include "base/sync.h"
#include "base/whole_file.h"
#include "repository/sequence.h"

namespace isr {
namespace {

constexpr std::int64_t kVersion = 2;
constexpr std::size_t kMaxFileSize = 1U << 20U;  // of a new, empty store
constexpr std::string_view kSchema = R"(
  CREATE TABLE seen(chain TEXT PRIMARY KEY, n INTEGER NOT NULL, hash BLOB NOT NULL, epoch INTEGER NOT NULL,
                    time INTEGER NOT NULL, junk BLOB NOT NULL, mac BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE accepted_older(id INTEGER PRIMARY KEY, chain TEXT NOT NULL, n INTEGER NOT NULL, hash BLOB NOT NULL,
                              at INTEGER NOT NULL, reason TEXT NOT NULL, mac BLOB NOT NULL);
  CREATE TABLE everything(id INTEGER PRIMARY KEY CHECK(id = 1), mac BLOB NOT NULL);
)";

std::int64_t to_integer(std::uint64_t v) { return static_cast<std::int64_t>(v); }
std::int64_t seconds(WallTime time) { return time.time_since_epoch().count(); }

struct Contents {
  std::map<std::string, Seen> seen;
  std::vector<Key> macs;  ///< of all rows, in table order
};

Bytes joined(const std::vector<Sha256>& hashes) {
  ByteWriter out;
  for (const Sha256& hash : hashes) out.put(hash.view());
  return out.take();
}

Key row_mac(const Key& key, const std::string& chain, const Seen& seen) {
  ByteWriter out;
  out.put(as_bytes("isr1/trust-seen")).u8(0).u64(chain.size()).put(as_bytes(chain));
  out.u64(seen.n).put(seen.hash.view()).u32(seen.epoch).u64(static_cast<std::uint64_t>(seconds(seen.time)));
  out.u64(seen.junk.size()).put(joined(seen.junk));
  return hmac_sha256(key.view(), {out.bytes()});
}

Key log_mac(const Key& key, std::int64_t id, const std::string& chain, const Seen& seen, std::int64_t at,
            const std::string& reason) {
  ByteWriter out;
  out.put(as_bytes("isr1/trust-log")).u8(0).u64(static_cast<std::uint64_t>(id));
  out.u64(chain.size()).put(as_bytes(chain)).u64(seen.n).put(seen.hash.view());
  out.u64(static_cast<std::uint64_t>(at)).u64(reason.size()).put(as_bytes(reason));
  return hmac_sha256(key.view(), {out.bytes()});
}

Key set_mac(const Key& key, const std::vector<Key>& macs) {
  ByteWriter out;
  out.put(as_bytes("isr1/trust-set")).u8(0).u64(macs.size());
  for (const Key& mac : macs) out.put(mac.view());
  return hmac_sha256(key.view(), {out.bytes()});
}

/// One consistent view of all tables: no other process can commit between two reads.
class ReadTransaction {
 public:
  explicit ReadTransaction(Database& db) : db_(db) { db_.execute("BEGIN"); }
  ~ReadTransaction() {
    try {
      db_.execute("ROLLBACK");
    } catch (const Error&) {
      // SQLite already ended the transaction itself because of damage.
    }
  }
  ReadTransaction(const ReadTransaction&) = delete;
  ReadTransaction& operator=(const ReadTransaction&) = delete;

 private:
  Database& db_;
};

}  // namespace

struct TrustStore::Impl {
  Impl(fs::path path, const Key& device_key)
      : file(std::move(path)), key(hmac_sha256(device_key.view(), {as_bytes("isr1/trust-store")})), db(open()) {}

  [[noreturn]] void damaged(std::string_view why) const {
    throw Error(
        ErrorKind::kCorrupt, fmt::format("{} is damaged ({})", file.string(), why),
        {"it records the newest version of each parcel that this host has seen; isr accept-older cannot repair it",
         "restore it from a backup, or let this host start as if it had seen nothing; in both cases first move it away",
         fmt::format("together with its companion files: mkdir {0}/broken-{1} && mv {0}/{1}* {0}/broken-{1}/",
                     file.parent_path().string(), file.filename().string())});
  }

  Database open();
  void create() const;
  Contents load(Database& from) const;
  Key load_seen(Database& from, Contents& out) const;
  void load_log(Database& from, Contents& out) const;
  void store(Database& to, const std::string& chain, const Seen& seen);
  void log_older(Database& to, const std::string& chain, const Seen& seen, const std::string& reason);
  static void seal(Database& to, const Key& key, const std::vector<Key>& macs);
  std::vector<Key> stored_macs(Database& from) const;

  /// A damaged schema makes the SQL fail to compile.
  template <class Body>
  auto guarded(Body body) const {
    try {
      return body();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kBug) damaged("its tables are not those of a trust store");
      throw;
    }
  }

  fs::path file;
  SecretKey key;
  Sync<Database> db;
};

void TrustStore::Impl::create() const {
  const TempDirectory directory("isr-trust");
  const fs::path fresh = directory.path() / "trust";
  {
    Database made(fresh, Durability::kFull);
    made.execute(kSchema);
    seal(made, key, {});
    made.set_user_version(kVersion);
  }                                                   // closing it moves the write-ahead log into the file
  create_file(file, read_file(fresh, kMaxFileSize));  // if another process was first, its file is as good
}

Database TrustStore::Impl::open() {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  if (error == std::errc::no_such_file_or_directory) {
    create();
  } else if (!error && size == 0) {
    damaged("it is empty");
  }
  return guarded([&] {
    try {
      Database opened(file, Durability::kFull);
      const std::int64_t version = opened.user_version();
      if (version > kVersion && version < 100) {
        throw Error(ErrorKind::kUnsupported, fmt::format("{} was written by a newer isr", file.string()));
      }
      if (version != kVersion) damaged("its version is not known");
      {
        const ReadTransaction transaction(opened);
        load(opened);
      }
      return opened;
    } catch (const Error& failure) {
      if (failure.kind() == ErrorKind::kCorrupt && failure.hints().empty()) damaged(failure.what());
      throw;
    }
  });
}

std::vector<Key> TrustStore::Impl::stored_macs(Database& from) const {
  std::vector<Key> macs;
  for (const std::string_view sql :
       {"SELECT mac FROM seen ORDER BY chain", "SELECT mac FROM accepted_older ORDER BY id"}) {
    Statement statement(from.get(), sql);
    auto rows = statement.use();
    while (rows.next()) {
      Key mac;
      const ByteView bytes = rows.blob(0);
      if (bytes.size() != mac.kSize) damaged("a row has no MAC");
      std::copy(bytes.begin(), bytes.end(), mac.value.begin());
      macs.push_back(mac);
    }
  }
  return macs;
}

Key TrustStore::Impl::load_seen(Database& from, Contents& out) const {
  Statement statement(from.get(), "SELECT chain, n, hash, epoch, time, junk FROM seen ORDER BY chain");
  auto rows = statement.use();
  std::size_t position = 0;
  while (rows.next()) {
    const std::string chain(rows.text(0));
    Seen seen;
    seen.n = static_cast<std::uint64_t>(rows.integer(1));
    const ByteView hash = rows.blob(2);
    if (hash.size() != Sha256::kSize) damaged("a row has an impossible value");
    std::copy(hash.begin(), hash.end(), seen.hash.value.begin());
    seen.epoch = static_cast<std::uint32_t>(rows.integer(3));
    seen.time = WallTime(std::chrono::seconds(rows.integer(4)));
    const ByteView junk = rows.blob(5);
    if (junk.size() % Sha256::kSize != 0) damaged("a row has an impossible value");
    for (std::size_t at = 0; at < junk.size(); at += Sha256::kSize) {
      std::copy_n(junk.begin() + static_cast<std::ptrdiff_t>(at), Sha256::kSize,
                  seen.junk.emplace_back().value.begin());
    }
    if (position >= out.macs.size() || row_mac(key, chain, seen) != out.macs[position++]) {
      damaged("a row does not match its MAC");
    }
    out.seen.emplace(chain, seen);
  }
  Statement whole(from.get(), "SELECT mac FROM everything WHERE id = 1");
  auto row = whole.use();
  Key mac;
  if (!row.next() || row.blob(0).size() != mac.kSize) damaged("the MAC over all rows is absent");
  const ByteView bytes = row.blob(0);
  std::copy(bytes.begin(), bytes.end(), mac.value.begin());
  return mac;
}

void TrustStore::Impl::load_log(Database& from, Contents& out) const {
  Statement statement(from.get(), "SELECT id, chain, n, hash, at, reason FROM accepted_older ORDER BY id");
  auto rows = statement.use();
  std::size_t position = out.seen.size();
  while (rows.next()) {
    Seen seen;
    seen.n = static_cast<std::uint64_t>(rows.integer(2));
    const ByteView hash = rows.blob(3);
    if (hash.size() != Sha256::kSize) damaged("a row has an impossible value");
    std::copy(hash.begin(), hash.end(), seen.hash.value.begin());
    const Key mac =
        log_mac(key, rows.integer(0), std::string(rows.text(1)), seen, rows.integer(4), std::string(rows.text(5)));
    if (position >= out.macs.size() || mac != out.macs[position++]) damaged("a row does not match its MAC");
  }
}

Contents TrustStore::Impl::load(Database& from) const {
  Contents out;
  out.macs = stored_macs(from);
  const Key whole = load_seen(from, out);
  load_log(from, out);
  if (whole != set_mac(key, out.macs)) damaged("rows were lost, or it belongs to another device key");
  return out;
}

void TrustStore::Impl::seal(Database& to, const Key& key, const std::vector<Key>& macs) {
  Statement statement(to.get(), "INSERT OR REPLACE INTO everything(id, mac) VALUES(1, ?)");
  statement.use().bind(set_mac(key, macs).view()).run();
}

void TrustStore::Impl::store(Database& to, const std::string& chain, const Seen& seen) {
  Statement statement(to.get(),
                      "INSERT OR REPLACE INTO seen(chain, n, hash, epoch, time, junk, mac) VALUES(?,?,?,?,?,?,?)");
  const Bytes junk = joined(seen.junk);
  auto use = statement.use();
  use.bind(std::string_view(chain)).bind(to_integer(seen.n)).bind(seen.hash.view());
  use.bind(std::int64_t{seen.epoch})
      .bind(seconds(seen.time))
      .bind(ByteView(junk))
      .bind(row_mac(key, chain, seen).view())
      .run();
}

void TrustStore::Impl::log_older(Database& to, const std::string& chain, const Seen& seen, const std::string& reason) {
  Statement last(to.get(), "SELECT coalesce(max(id), 0) FROM accepted_older");
  std::int64_t id = 1;
  {
    auto row = last.use();
    if (row.next()) id = row.integer(0) + 1;
  }
  const std::int64_t now = seconds(wall_now());
  Statement insert(to.get(), "INSERT INTO accepted_older(id, chain, n, hash, at, reason, mac) VALUES(?,?,?,?,?,?,?)");
  auto use = insert.use();
  use.bind(id).bind(std::string_view(chain)).bind(to_integer(seen.n)).bind(seen.hash.view()).bind(now);
  use.bind(std::string_view(reason)).bind(log_mac(key, id, chain, seen, now, reason).view()).run();
}

std::string accept_older_hint(const std::string& chain, std::uint64_t n, const std::string& when) {
  const bool is_profile = chain.starts_with("users/");
  const std::string version = is_profile ? fmt::format("--profile {}", n) : fmt::format("NAME@{}", n);
  return fmt::format("{}  isr accept-older {} --reason TEXT", when, version);
}

void refuse_history(const std::string& chain, const std::string& what, std::uint64_t offered, const std::string& when) {
  std::vector<std::string> hints{"nothing was changed here"};
  if (offered != 0) hints.push_back(accept_older_hint(chain, offered, when));
  throw Error(ErrorKind::kHistory, what, std::move(hints));
}

namespace {

void check_against(const std::string& chain, const Contents& contents, const Seen& candidate) {
  const auto found = contents.seen.find(chain);
  if (found == contents.seen.end()) return;
  const Seen& seen = found->second;
  if (candidate.n < seen.n) {
    refuse_history(
        chain,
        fmt::format("{}: the repository was rolled back: it shows version {}, this host has seen version {} of {}",
                    chain, candidate.n, seen.n, to_rfc3339(seen.time)),
        candidate.n);
  }
  if (candidate.n == seen.n && candidate.hash != seen.hash) {
    refuse_history(
        chain, fmt::format("{}: history was forked: version {} is not the one that this host has seen", chain, seen.n),
        candidate.n);
  }
  if (candidate.epoch < seen.epoch) {
    refuse_history(chain,
                   fmt::format("{}: version {} is under an older key than version {}", chain, candidate.n, seen.n),
                   candidate.n);
  }
}

void check_bounds(const Seen& seen) {
  if (seen.n == 0 || seen.n > kMaxSequence) throw Error(ErrorKind::kBug, "a version number is out of bounds");
}

}  // namespace

TrustStore::TrustStore(const std::filesystem::path& file, const Key& device_key)
    : impl_(std::make_unique<Impl>(file, device_key)) {}
TrustStore::~TrustStore() = default;

std::optional<Seen> TrustStore::seen(const std::string& chain) {
  auto db = impl_->db.lock();
  return impl_->guarded([&]() -> std::optional<Seen> {
    const ReadTransaction transaction(*db);
    const Contents contents = impl_->load(*db);
    const auto found = contents.seen.find(chain);
    return found == contents.seen.end() ? std::nullopt : std::optional(found->second);
  });
}

void TrustStore::check(const std::string& chain, const Seen& candidate) {
  auto db = impl_->db.lock();
  impl_->guarded([&] {
    const ReadTransaction transaction(*db);
    check_against(chain, impl_->load(*db), candidate);
  });
}

void TrustStore::accept(const std::string& chain, const Seen& seen) {
  check_bounds(seen);
  auto db = impl_->db.lock();
  impl_->guarded([&] {
    Transaction transaction(*db);
    const Contents contents = impl_->load(*db);
    check_against(chain, contents, seen);
    Seen merged = seen;
    if (const auto old = contents.seen.find(chain); old != contents.seen.end()) {
      if (old->second.n == seen.n && old->second.time >= seen.time) return;  // nothing new: saves a disk write
      merged.time = std::max(seen.time, old->second.time);
      if (old->second.n == seen.n) merged.junk = old->second.junk;
    }
    impl_->store(*db, chain, merged);
    Impl::seal(*db, impl_->key, impl_->stored_macs(*db));
    transaction.commit();
  });
}

void TrustStore::accept_older(const std::string& chain, const Seen& seen, const std::string& reason) {
  check_bounds(seen);
  auto db = impl_->db.lock();
  impl_->guarded([&] {
    Transaction transaction(*db);
    const Contents contents = impl_->load(*db);
    Seen merged = seen;
    if (const auto old = contents.seen.find(chain); old != contents.seen.end()) {
      merged.time = std::max(seen.time, old->second.time);  // an older head must not lower the time
    }
    impl_->store(*db, chain, merged);
    impl_->log_older(*db, chain, seen, reason);
    Impl::seal(*db, impl_->key, impl_->stored_macs(*db));
    transaction.commit();
  });
}

}  // namespace isr
