#include "repository/lock.h"

#include <fmt/format.h>

#include "repository/keybox.h"
#include "repository/sequence.h"
#include "repository/signed_text.h"
#include "repository/strict_json.h"

namespace isr {
namespace {

constexpr std::string_view kFormat = "isr1-lock";
constexpr std::string_view kDomain = "isr1/lock";
constexpr std::size_t kMaxRecordSize = 8192;
constexpr std::size_t kMaxNote = 1024;
constexpr std::uint64_t kMaxLease = 7 * 24 * 3600;
constexpr int kAttempts = 20;  // of races lost in a row

std::string_view mode_name(LockMode mode) { return mode == LockMode::kAttended ? "attended" : "checkout"; }

std::string encode_line(const LockRecord& record, const std::string& chain) {
  JsonWriter json;
  json.text("format", kFormat).text("chain", chain).number("s", record.s).boolean("held", record.held);
  json.text("host", record.host).text("host_id", record.host_id).text("mode", mode_name(record.mode));
  json.number("lease", static_cast<std::uint64_t>(record.lease.count())).number("base", record.base);
  json.time("since", record.since).time("time", record.time).text("note", record.note);
  return json.take();
}

bool is_host_id(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

LockRecord decode_line(std::string_view line, const std::string& chain, const std::string& what) {
  const JsonValue value = parse_strict_json(line, what);
  JsonFields fields(value, what);
  LockRecord record;
  if (fields.text("format", 32) != kFormat) fields.fail("format", "is unknown");
  if (fields.text("chain", 256) != chain) fields.fail("chain", "is that of another parcel");
  record.s = fields.number("s", 1, kMaxSequence);
  record.held = fields.boolean("held");
  record.host = fields.text("host", 64);
  record.host_id = fields.text("host_id", 32);
  const std::string& mode = fields.text("mode", 16);
  if (mode != "attended" && mode != "checkout") fields.fail("mode", "is unknown");
  record.mode = mode == "attended" ? LockMode::kAttended : LockMode::kCheckout;
  record.lease = std::chrono::seconds(fields.number("lease", 1, kMaxLease));
  record.base = fields.number("base", 0, kMaxSequence);
  record.since = fields.time("since");
  record.time = fields.time("time");
  record.note = fields.text("note", kMaxNote);
  fields.expect_end();
  try {
    check_user_name(record.host);
  } catch (const Error&) {
    fields.fail("host", "is no host name");
  }
  if (!is_host_id(record.host_id)) fields.fail("host_id", "is not 32 hex digits");
  if (encode_line(record, chain) != line) throw Error(ErrorKind::kCorrupt, fmt::format("{}: not canonical", what));
  return record;
}

std::string locked_text(const std::string& chain, const LockRecord& record, std::optional<std::chrono::seconds> age) {
  const std::string seen = age ? fmt::format(", last seen {}", describe_age(*age)) : std::string();
  if (!record.held) {
    return fmt::format("{}: the lock is no longer ours: {} released it{}{}", chain, record.host,
                       record.note.empty() ? "" : ": ", record.note);
  }
  return fmt::format("{} is in use on {} (since {}{})", chain, record.host, to_rfc3339(record.since), seen);
}

std::vector<std::string> locked_hints(const LockRecord& record) {
  if (!record.held) return {};
  return {fmt::format("on {} run            isr suspend NAME", record.host),
          "or look without running   isr mount NAME@latest DIR",
          fmt::format("if {} is lost        isr lock break NAME     (its unsynced changes stay there)", record.host)};
}

}  // namespace

std::string describe_age(std::chrono::seconds age) {
  const auto s = age.count();
  if (s < 5) return "just now";
  if (s < 120) return fmt::format("{} seconds ago", s);
  if (s < 2 * 3600) return fmt::format("{} minutes ago", s / 60);
  if (s < 2 * 86400) return fmt::format("{} hours ago", s / 3600);
  return fmt::format("{} days ago", s / 86400);
}

LockedError::LockedError(const std::string& chain, LockRecord record, std::optional<std::chrono::seconds> age)
    : Error(ErrorKind::kLocked, locked_text(chain, record, age), locked_hints(record)),
      record_(std::move(record)),
      age_(age) {}

Bytes encode_lock_record(const LockRecord& record, const std::string& chain, const SigningKey& key) {
  Bytes blob = sign_text(kDomain, encode_line(record, chain), key);
  try {
    decode_lock_record(blob, key.public_key, chain, record.s);  // never write what nobody can read
  } catch (const Error& error) {
    throw Error(ErrorKind::kUsage, fmt::format("cannot write such a lock record: {}", error.what()));
  }
  return blob;
}

LockRecord decode_lock_record(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t s) {
  const std::string what = fmt::format("{} lock record {}", chain, s);
  LockRecord record = decode_line(open_signed_text(blob, kDomain, signer, kMaxRecordSize, what), chain, what);
  if (record.s != s) throw Error(ErrorKind::kCorrupt, fmt::format("{}: in its place lies record {}", what, record.s));
  return record;
}

ParcelLock::ParcelLock(BlobStorePtr store, std::string chain, SigningKey key, LockIdentity me)
    : store_(std::move(store)), chain_(std::move(chain)), key_(std::move(key)), me_(std::move(me)) {}

std::optional<ParcelLock::Ruling> ParcelLock::read(std::uint64_t s) {
  const auto blob = store_->get(sequence_name(locks(), s));
  if (!blob) return std::nullopt;
  Ruling ruling;
  try {
    ruling.record = decode_lock_record(blob->bytes, key_.public_key, chain_, s);
  } catch (const Error& error) {
    throw Error(error.kind(), error.what(), {"to write over it    isr lock break NAME --reason TEXT"});
  }
  ruling.age = blob->age;
  ruling.ours = ruling.record.held && ruling.record.host_id == me_.host_id;
  ruling.expired =
      ruling.record.held && ruling.record.mode == LockMode::kAttended && blob->age && *blob->age > ruling.record.lease;
  return ruling;
}

std::optional<ParcelLock::Ruling> ParcelLock::show() {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::uint64_t s = newest_in_sequence(*store_, locks());
    if (s == 0) return std::nullopt;
    if (auto ruling = read(s)) return ruling;  // else removed this moment by an administrator
  }
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: its lock records are listed, but cannot be read", chain_));
}

LockRecord ParcelLock::fresh(LockMode mode, std::uint64_t base) const {
  LockRecord record;
  record.held = true;
  record.host = me_.host;
  record.host_id = me_.host_id;
  record.mode = mode;
  record.base = base;
  record.since = record.time = wall_now();
  return record;
}

bool ParcelLock::put(const LockRecord& record) {
  if (record.s > kMaxSequence) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: its lock records have reached the last number", chain_),
                {"an administrator of the repository must remove " + locks()});
  }
  const Bytes blob = encode_lock_record(record, chain_, key_);
  const std::string name = sequence_name(locks(), record.s);
  if (store_->put_new(name, blob) == PutResult::kCreated) return true;
  const auto there = store_->get(name);
  return there && there->bytes == blob;
}

LockRecord ParcelLock::acquire(LockMode mode, std::uint64_t base) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto ruling = show();
    if (ruling && ruling->record.held && !ruling->ours && !ruling->expired) {
      throw LockedError(chain_, ruling->record, ruling->age);
    }
    LockRecord record = fresh(mode, base);
    record.s = ruling ? ruling->record.s + 1 : 1;
    if (ruling && ruling->ours) record.since = ruling->record.since;
    if (put(record)) return record;  // else someone was faster: look again
  }
  throw Error(ErrorKind::kTransient, fmt::format("{}: others keep changing its lock", chain_));
}

LockRecord ParcelLock::put_over(LockRecord record) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    record.s = newest_in_sequence(*store_, locks()) + 1;
    if (put(record)) return record;
  }
  throw Error(ErrorKind::kTransient, fmt::format("{}: others keep changing its lock", chain_));
}

LockRecord ParcelLock::steal(LockMode mode, std::uint64_t base, const std::string& reason) {
  LockRecord record = fresh(mode, base);
  record.note = reason;
  return put_over(std::move(record));
}

LockRecord ParcelLock::renew(const LockRecord& mine) {
  LockRecord record = mine;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    record.s += 1;
    record.time = wall_now();
    if (put(record)) return record;
    // Taken: by someone else, or by a renewal of ours, of an earlier process or without an answer.
    const auto ruling = show();
    if (!ruling || !ruling->ours || ruling->record.since != mine.since) {
      throw LockedError(chain_, ruling ? ruling->record : mine, ruling ? ruling->age : std::nullopt);
    }
    record.s = ruling->record.s;
  }
  throw Error(ErrorKind::kTransient, fmt::format("{}: others keep changing its lock", chain_));
}

void ParcelLock::release(const LockRecord& mine) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto ruling = show();
    if (!ruling || !ruling->ours || ruling->record.since != mine.since) return;
    LockRecord record = ruling->record;
    record.s += 1;
    record.held = false;
    record.time = wall_now();
    if (put(record)) return;
  }
  throw Error(ErrorKind::kTransient, fmt::format("{}: others keep changing its lock", chain_));
}

void ParcelLock::break_lock(const std::string& reason) {
  if (newest_in_sequence(*store_, locks()) == 0) return;
  LockRecord record = fresh(LockMode::kAttended, 0);
  record.held = false;
  record.note = reason;
  put_over(std::move(record));
}

void ParcelLock::check(const LockRecord& mine) {
  const auto ruling = show();
  if (!ruling) throw Error(ErrorKind::kLocked, fmt::format("{}: the lock is no longer ours: it is gone", chain_));
  if (!ruling->ours || ruling->record.since != mine.since || ruling->record.s < mine.s) {
    throw LockedError(chain_, ruling->record, ruling->age);
  }
}

}  // namespace isr
