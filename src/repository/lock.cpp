// locks/ holds one record for each change of the holder, so it stays short although every reader lists it. Renewals
// have a folder of their own for each record. A take-over writes the next record, so a holder that renews looks for a
// next record.
#include "repository/lock.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>

#include "base/log.h"
#include "base/strict_json.h"
#include "repository/keybox.h"
#include "repository/sequence.h"
#include "repository/signed_text.h"

namespace isr {
namespace {

constexpr std::string_view kFormat = "isr1-lock";
constexpr std::string_view kDomain = "isr1/lock";
constexpr std::size_t kMaxRecordSize = 8192;
constexpr std::size_t kMaxNote = 1024;
constexpr std::uint64_t kMaxLease = 7 * 24 * 3600;
constexpr int kAttempts = 20;  // races lost one after the other
// Junk records one after the other. Anyone who may write to the store can put junk there.
constexpr std::size_t kMaxNumbers = 32;

std::string_view mode_name(LockMode mode) { return mode == LockMode::kAttended ? "attended" : "checkout"; }

std::string encode_line(const LockRecord& record, const std::string& chain) {
  JsonWriter json;
  json.text("format", kFormat).text("chain", chain).number("s", record.s).number("r", record.r);
  json.text("hold", record.hold).boolean("held", record.held);
  json.text("host", record.host).text("host_id", record.host_id).text("mode", mode_name(record.mode));
  json.number("lease", static_cast<std::uint64_t>(record.lease.count()));
  json.text("base_chain", record.base.chain).number("base", record.base.n);
  json.hex("base_hash", record.base.hash.view());
  json.time("since", record.since).time("time", record.time).text("note", record.note);
  return json.take();
}

bool is_id(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

LockRecord decode_line(std::string_view line, const std::string& chain, const std::string& what) {
  const JsonValue value = parse_strict_json(line, what);
  JsonFields fields(value, what);
  LockRecord record;
  if (fields.text("format", 32) != kFormat) fields.fail("format", "is unknown");
  if (fields.text("chain", 256) != chain) fields.fail("chain", "belongs to another parcel");
  record.s = fields.number("s", 1, kMaxSequence);
  record.r = fields.number("r", 0, kMaxSequence);
  record.hold = fields.text("hold", 32);
  record.held = fields.boolean("held");
  record.host = fields.text("host", 64);
  record.host_id = fields.text("host_id", 32);
  const std::string& mode = fields.text("mode", 16);
  if (mode != "attended" && mode != "checkout") fields.fail("mode", "is unknown");
  record.mode = mode == "attended" ? LockMode::kAttended : LockMode::kCheckout;
  record.lease = std::chrono::seconds(fields.number("lease", 1, kMaxLease));
  record.base.chain = fields.text("base_chain", 256);
  record.base.n = fields.number("base", 0, kMaxSequence);
  record.base.hash = fields.hex<Sha256>("base_hash");
  record.since = fields.time("since");
  record.time = fields.time("time");
  record.note = fields.text("note", kMaxNote);
  fields.expect_end();
  try {
    check_user_name(record.host);
  } catch (const Error&) {
    fields.fail("host", "is not a host name");
  }
  if (!is_id(record.host_id)) fields.fail("host_id", "is not 32 hex digits");
  if (!is_id(record.hold)) fields.fail("hold", "is not 32 hex digits");
  if (encode_line(record, chain) != line) throw Error(ErrorKind::kCorrupt, fmt::format("{}: not canonical", what));
  return record;
}

std::string locked_text(const std::string& chain, const LockRuling& ruling) {
  const LockRecord& record = ruling.record;
  const std::string seen = ruling.age ? fmt::format(", last seen {}", describe_age(*ruling.age)) : std::string();
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

[[noreturn]] void fail_racing(const std::string& chain) {
  throw Error(ErrorKind::kTransient, fmt::format("{}: other hosts keep changing its lock", chain));
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

LockedError::LockedError(const std::string& chain, LockRuling ruling)
    : Error(ErrorKind::kLocked, locked_text(chain, ruling), locked_hints(ruling.record)), ruling_(std::move(ruling)) {}

std::string random_hold() {
  std::array<std::uint8_t, 16> random{};
  random_bytes(random);
  return to_hex(random);
}

Bytes encode_lock_record(const LockRecord& record, const std::string& chain, const SigningKey& key) {
  Bytes blob = sign_text(kDomain, encode_line(record, chain), key);
  try {
    decode_lock_record(blob, key.public_key, chain, record.s,
                       record.r);  // throws when the record could not be read back
  } catch (const Error& error) {
    throw Error(ErrorKind::kUsage, fmt::format("cannot write a lock record: {}", error.what()));
  }
  return blob;
}

LockRecord decode_lock_record(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t s,
                              std::uint64_t r) {
  const std::string what =
      fmt::format("{} lock record {}{}", chain, s, r == 0 ? std::string() : fmt::format(", renewal {}", r));
  LockRecord record = decode_line(open_signed_text(blob, kDomain, signer, kMaxRecordSize, what), chain, what);
  if (record.s != s || record.r != r) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: its place holds record {}, {}", what, record.s, record.r));
  }
  return record;
}

ParcelLock::ParcelLock(BlobStorePtr store, std::string chain, SigningKey key, LockIdentity me,
                       std::chrono::seconds lease)
    : store_(std::move(store)), chain_(std::move(chain)), key_(std::move(key)), me_(std::move(me)), lease_(lease) {}

std::string ParcelLock::renewals(std::uint64_t s) const { return sequence_name(chain_ + "/renewals", s); }

/// nullopt when absent or not readable.
std::optional<LockRuling> ParcelLock::read_at(const std::string& name, std::uint64_t s, std::uint64_t r) {
  try {
    const auto blob = store_->get(name);
    if (!blob) return std::nullopt;
    LockRuling ruling;
    ruling.record = decode_lock_record(blob->bytes, key_.public_key, chain_, s, r);
    ruling.age = blob->age;
    return ruling;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    log::warn("{}; it is skipped", error.what());
    return std::nullopt;
  }
}

std::optional<LockRuling> ParcelLock::read(std::uint64_t s) {
  auto ruling = read_at(sequence_name(locks(), s), s, 0);
  if (!ruling || !ruling->record.held) return ruling;
  if (ruling->record.mode == LockMode::kAttended) read_renewals(*ruling);
  ruling->ours = ruling->record.host_id == me_.host_id;
  ruling->expired = ruling->record.mode == LockMode::kAttended && ruling->age && *ruling->age > ruling->record.lease;
  return ruling;
}

void ParcelLock::read_renewals(LockRuling& ruling) {
  const LockRecord& taken = ruling.record;
  for (const std::uint64_t r : newest_numbers(*store_, renewals(taken.s), kMaxNumbers)) {
    auto renewal = read_at(sequence_name(renewals(taken.s), r), taken.s, r);
    if (!renewal || renewal->record.hold != taken.hold || renewal->record.host_id != taken.host_id) continue;
    ruling = std::move(*renewal);
    return;
  }
}

ParcelLock::Found ParcelLock::look() {
  Found found;
  const auto numbers = newest_numbers(*store_, locks(), kMaxNumbers);
  for (std::size_t i = 0; i < numbers.size() && !found.ruling; ++i) found.ruling = read(numbers[i]);
  found.unreadable = !found.ruling && numbers.size() == kMaxNumbers;
  if (found.unreadable) {
    found.next = numbers.front() + 1;
    return found;
  }
  if (found.ruling) found.next = found.ruling->record.s + 1;
  const auto taken = [&](std::uint64_t n) { return std::find(numbers.begin(), numbers.end(), n) != numbers.end(); };
  while (taken(found.next)) ++found.next;  // by an unreadable record
  return found;
}

ParcelLock::Found ParcelLock::look_readable() {
  Found found = look();
  if (!found.unreadable) return found;
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: its newest {} lock records cannot be read", chain_, kMaxNumbers),
              {"to replace them    isr lock break NAME --reason TEXT"});
}

std::optional<LockRuling> ParcelLock::show() { return look_readable().ruling; }

LockRecord ParcelLock::fresh(const LockRequest& wanted) const {
  LockRecord record;
  record.hold = wanted.hold;
  record.held = true;
  record.host = me_.host;
  record.host_id = me_.host_id;
  record.mode = wanted.mode;
  record.lease = lease_;
  record.base = wanted.base;
  record.since = record.time = wall_now();
  return record;
}

bool ParcelLock::put(const LockRecord& record) {
  if (record.s > kMaxSequence) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: its lock records have reached the last number", chain_),
                {"an administrator of the repository must remove " + locks()});
  }
  const Bytes blob = encode_lock_record(record, chain_, key_);
  const std::string name =
      record.r == 0 ? sequence_name(locks(), record.s) : sequence_name(renewals(record.s), record.r);
  store_->put_new(name, blob);
  const auto there = store_->get(name);  // a lock counts only when others see it
  if (there) return there->bytes == blob;
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: {} says that it has lock record {}, but does not give it", chain_,
                                               store_->describe(), name));
}

LockRecord ParcelLock::acquire(const LockRequest& wanted) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const Found found = look_readable();
    if (found.ruling && found.ruling->record.held && !found.ruling->ours) throw LockedError(chain_, *found.ruling);
    LockRecord record = fresh(wanted);
    record.s = found.next;
    if (put(record)) return record;  // otherwise another host was faster: look again
  }
  fail_racing(chain_);
}

LockRecord ParcelLock::keep(const LockRequest& wanted) {
  const auto ruling = show();
  return ruling && ruling->is_hold(wanted.hold) ? ruling->record : acquire(wanted);
}

LockRecord ParcelLock::put_over(LockRecord record) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    record.s = look().next;
    if (put(record)) return record;
  }
  fail_racing(chain_);
}

LockRecord ParcelLock::steal(const LockRequest& wanted, const std::string& reason) {
  LockRecord record = fresh(wanted);
  record.note = reason;
  return put_over(std::move(record));
}

LockRecord ParcelLock::renew(const LockRecord& mine) {
  LockRecord record = mine;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    bool renewed = false;
    if (record.s != 0) {
      record.r += 1;
      record.time = wall_now();
      renewed = put(record);
      if (renewed && !store_->stat(sequence_name(locks(), record.s + 1))) return record;
    }
    // Another host has the lock, or junk lies after our record, or there are renewals of ours from an earlier process
    // or without an answer.
    auto ruling = show();
    if (!ruling || !ruling->is_hold(mine.hold)) {
      throw LockedError(chain_, ruling ? std::move(*ruling) : LockRuling{mine, {}, false, false});
    }
    if (renewed && ruling->record.s == record.s) return ruling->record;
    const std::uint64_t tried = ruling->record.s == record.s ? record.r : 0;  // the number holds an unreadable record
    record = ruling->record;
    record.r = std::max(record.r, tried);
  }
  fail_racing(chain_);
}

bool ParcelLock::release(const std::string& hold) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const Found found = look_readable();
    if (!found.ruling || !found.ruling->is_hold(hold)) return !found.ruling || !found.ruling->is_moved_hold(hold);
    LockRecord record = found.ruling->record;
    record.s = found.next;
    record.r = 0;
    record.held = false;
    record.time = wall_now();
    if (put(record)) return true;
  }
  fail_racing(chain_);
}

void ParcelLock::break_lock(const std::string& reason) {
  const Found found = look();
  if (!found.ruling && found.next == 1) return;
  LockRecord record = fresh({.hold = random_hold(), .mode = LockMode::kAttended, .base = {}});
  record.held = false;
  record.note = reason;
  put_over(std::move(record));
}

}  // namespace isr
