// newest() reads the hint before it walks: a head that the hint names was
// published before that moment, so if the walk ends below it, heads between are
// missing. A host that has seen head s walks from s, one head at a time, for
// only that shows that the new heads continue what it has seen. A host that
// has seen nothing may begin at the hint.
#include "repository/chain.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "repository/keybox.h"
#include "repository/sequence.h"

namespace isr {
namespace {

constexpr int kAttempts = 5;

constexpr std::size_t kForkDigits = 4;

bool same(ByteView a, ByteView b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

/// HOST-DIGITS/N
struct ForkName {
  std::string host;
  std::string digits;
  std::uint64_t n = 0;
};

ForkName parse_fork_name(const std::string& text) {
  const auto only = [](std::string_view part, std::string_view characters, std::size_t min, std::size_t max) {
    return part.size() >= min && part.size() <= max && part.find_first_not_of(characters) == std::string_view::npos;
  };
  const auto slash = std::min(text.find('/'), text.size());
  const auto dash = std::min(text.rfind('-', slash), slash);
  ForkName name;
  name.host = text.substr(0, dash);
  name.digits = text.substr(std::min(dash + 1, slash), slash - std::min(dash + 1, slash));
  const std::string number = text.substr(std::min(slash + 1, text.size()));
  const bool whole = only(name.host, "abcdefghijklmnopqrstuvwxyz0123456789._-", 1, 64) &&
                     only(name.digits, "0123456789abcdef", kForkDigits, 2 * Sha256::kSize) &&
                     only(number, "0123456789", 1, 16) && number != std::string(number.size(), '0');
  if (!whole) throw Error(ErrorKind::kUsage, "a fork is named like desk-42-3f2a/41");
  name.n = std::stoull(number);
  return name;
}

}  // namespace

void check_fork_name(const std::string& fork) { parse_fork_name(fork); }

std::string head_name(const std::string& chain, std::uint64_t n) { return sequence_name(chain + "/heads", n); }

Chain::Chain(BlobStorePtr store, std::string id, PublicKey signer, std::shared_ptr<TrustStore> trust, fs::path kept)
    : store_(std::move(store)), id_(std::move(id)), signer_(signer), trust_(std::move(trust)), kept_(std::move(kept)) {}

StoredHead Chain::decode(Bytes blob, std::uint64_t n) const {
  StoredHead stored;
  stored.head = decode_head(blob, signer_, id_, n);
  stored.hash = head_hash(blob);
  stored.blob = std::move(blob);
  return stored;
}

Seen Chain::seen_of(const StoredHead& stored) const {
  return {stored.head.n, stored.hash, stored.head.epoch, stored.head.time};
}

void Chain::accept(const StoredHead& stored) {
  trust_->accept(id_, seen_of(stored));
  keep(stored);
}

void Chain::keep(const StoredHead& stored) const {
  if (kept_.empty()) return;
  try {
    const auto before = read_file_if_exists(kept_, kMaxHeadSize);
    if (before && same(*before, stored.blob)) return;
    make_private_directory(kept_.parent_path());
    replace_file(kept_, stored.blob);
  } catch (const Error& error) {
    log::warn("{}: version {} is not kept for being offline: {}", id_, stored.head.n, error.what());
  }
}

std::optional<StoredHead> Chain::kept() const {
  const auto seen = trust_->seen(id_);
  if (!seen || kept_.empty()) return std::nullopt;
  auto blob = read_file_if_exists(kept_, kMaxHeadSize);
  if (!blob) return std::nullopt;
  if (head_hash(*blob) != seen->hash) {
    throw Error(ErrorKind::kOffline,
                fmt::format("{}: version {}, the newest that this host has seen, is not kept here", id_, seen->n));
  }
  return decode(std::move(*blob), seen->n);
}

std::optional<StoredHead> Chain::read(std::uint64_t n) {
  if (n == 0 || n > kMaxSequence) return std::nullopt;
  auto blob = store_->get(head_name(id_, n));
  if (!blob) return std::nullopt;
  return decode(std::move(blob->bytes), n);
}

/// What `latest` says; 0 when it says nothing that makes sense.
std::uint64_t Chain::hinted() {
  std::optional<Blob> blob;
  try {
    blob = store_->get(id_ + "/latest", ByteRange{0, 32});
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;  // an absurd hint is no hint
  }
  if (!blob) return 0;
  std::string_view text = as_text(blob->bytes);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return sequence_number("x", "x/" + std::string(text)).value_or(0);
}

StoredHead Chain::read_seen(const Seen& seen) {
  auto blob = store_->get(head_name(id_, seen.n));
  if (!blob) {
    const std::uint64_t there = std::min(newest_in_sequence(*store_, heads()), seen.n - 1);
    refuse_history(
        fmt::format("{}: the repository was rolled back: version {} of {}, which this host has seen, is gone", id_,
                    seen.n, to_rfc3339(seen.time)),
        std::max<std::uint64_t>(there, 1));
  }
  StoredHead stored = decode(std::move(blob->bytes), seen.n);
  if (stored.hash != seen.hash) {
    refuse_history(
        fmt::format("{}: history was forked: version {} is not the one that this host has seen", id_, seen.n), seen.n);
  }
  return stored;
}

/// Where a host begins that has seen nothing of this chain.
std::optional<StoredHead> Chain::first_sight(std::uint64_t hint) {
  if (hint != 0) {
    try {
      if (auto stored = read(hint)) return stored;
    } catch (const Error& error) {
      // A hint may be forged: what it points at need not be a head.
      if (error.kind() != ErrorKind::kCorrupt) throw;
      log::debug("{}: the hint names version {}: {}", id_, hint, error.what());
    }
  }
  const auto names = store_->list(heads() + "/");
  if (!names) return read(1);
  std::uint64_t newest = 0;
  for (const auto& name : *names) newest = std::max(newest, sequence_number(heads(), name).value_or(0));
  if (newest == 0) return read(1);
  auto stored = read(newest);
  if (!stored) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: version {} is listed, but cannot be read", id_, newest));
  }
  return stored;
}

StoredHead Chain::walk_forward(StoredHead at) {
  while (auto next = read(at.head.n + 1)) {
    if (next->head.prev != at.hash) {
      refuse_history(
          fmt::format("{}: history was forked: version {} does not follow version {}", id_, next->head.n, at.head.n),
          next->head.n);
    }
    if (next->head.epoch < at.head.epoch) {
      refuse_history(fmt::format("{}: version {} is under an older key than version {}", id_, next->head.n, at.head.n),
                     next->head.n);
    }
    at = std::move(*next);
  }
  return at;
}

std::optional<StoredHead> Chain::find_newest(const std::optional<Seen>& seen) {
  const std::uint64_t hint = hinted();
  auto start = seen ? read_seen(*seen) : first_sight(hint);
  if (!start) return std::nullopt;
  StoredHead newest = walk_forward(std::move(*start));
  if (hint <= newest.head.n) return newest;
  std::optional<StoredHead> beyond;
  try {
    beyond = read(hint);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
  if (beyond) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: version {} is missing, though there is a version {}", id_, newest.head.n + 1, hint));
  }
  return newest;
}

std::optional<StoredHead> Chain::newest() {
  for (int attempt = 1;; ++attempt) {
    const auto seen = trust_->seen(id_);
    auto found = find_newest(seen);
    if (!found) return std::nullopt;
    try {
      accept(*found);
      return found;
    } catch (const Error& error) {
      // Another process of this host may have accepted a newer head meanwhile.
      const auto now = trust_->seen(id_);
      const bool moved = now && (!seen || now->n != seen->n || now->hash != seen->hash);
      if (error.kind() != ErrorKind::kHistory || !moved || attempt == kAttempts) throw;
    }
  }
}

std::optional<StoredHead> Chain::before(const StoredHead& later) {
  const std::uint64_t n = later.head.n - 1;
  if (n == 0) return std::nullopt;
  auto stored = read(n);
  if (!stored) throw Error(ErrorKind::kHistory, fmt::format("{}: version {} is gone", id_, n));
  if (stored->hash != later.head.prev) {
    throw Error(ErrorKind::kHistory, fmt::format("{}: version {} does not follow version {}", id_, later.head.n, n));
  }
  return stored;
}

std::optional<StoredHead> Chain::ancestor(StoredHead newest, std::uint64_t n) {
  if (n == 0 || n > newest.head.n) return std::nullopt;
  std::optional<StoredHead> at = std::move(newest);
  while (at && at->head.n > n) at = before(*at);
  return at;
}

/// The store has a head n: ours, or that of another host?
bool Chain::is_published(std::uint64_t n, ByteView blob) {
  const auto there = store_->get(head_name(id_, n));
  if (!there) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: {} says that it has version {}, but does not give it", id_, store_->describe(), n));
  }
  if (same(there->bytes, blob)) return true;
  decode(there->bytes, n);  // junk in the place of a head is damage, not another host
  return false;
}

/// A store that was rolled back or forked must not get a new head above the gap.
void Chain::check_follows(const StoredHead& ours, const std::optional<Seen>& seen) {
  const std::uint64_t n = ours.head.n;
  const bool follows = !seen || n <= seen->n || (n == seen->n + 1 && ours.head.prev == seen->hash);
  if (!follows) {
    refuse_history(fmt::format("{}: version {} does not follow what this host has seen", id_, n), seen->n);
  }
  if (n == 1) return;
  const auto before = store_->get(head_name(id_, n - 1));
  if (!before) {
    refuse_history(fmt::format("{}: the repository was rolled back: version {} is gone", id_, n - 1), n - 1);
  }
  if (head_hash(before->bytes) != ours.head.prev) {
    refuse_history(
        fmt::format("{}: history was forked: version {} is not the one that version {} follows", id_, n - 1, n), n - 1);
  }
}

std::optional<StoredHead> Chain::publish(std::uint64_t n, ByteView blob) {
  StoredHead ours = decode(to_bytes(blob), n);
  const auto seen = trust_->seen(id_);
  trust_->check(id_, seen_of(ours));
  check_follows(ours, seen);
  const PutResult put = store_->put_new(head_name(id_, n), blob);
  if (!is_published(n, blob)) {
    if (put == PutResult::kCreated) {
      log::warn("{}: {} let two hosts write version {}; check it with: isr repo check", id_, store_->describe(), n);
    }
    return std::nullopt;
  }
  accept(ours);
  try {
    store_->put_hint(id_ + "/latest", as_bytes(fmt::format("{:016}\n", n)));
  } catch (const Error& error) {
    log::debug("{}: the hint was not set: {}", id_, error.what());  // it only saves time
  }
  return ours;
}

std::string Chain::keep_fork(std::uint64_t n, ByteView blob) {
  const StoredHead ours = decode(to_bytes(blob), n);
  const std::string digits = to_hex(ours.hash.view());
  for (std::size_t count = kForkDigits; count <= kAttempts * kForkDigits; count += kForkDigits) {
    const std::string fork = fmt::format("{}-{}", ours.head.host, digits.substr(0, count));
    const std::string place = sequence_name(fmt::format("{}/forks/{}", id_, fork), n);
    const PutResult put = store_->put_new(place, blob);
    // The caller may give up what it has of the fork.
    const auto kept = store_->get(place);
    if (kept && same(kept->bytes, blob)) return fmt::format("{}/{}", fork, n);
    if (put == PutResult::kCreated) {
      throw Error(ErrorKind::kCorrupt, fmt::format("{}: {} says that it keeps fork {}, but does not give it", id_,
                                                   store_->describe(), fork));
    }
  }
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: {} says of every name that it is taken", id_, store_->describe()));
}

std::optional<StoredHead> Chain::read_fork(const std::string& fork) {
  const ForkName name = parse_fork_name(fork);
  auto blob = store_->get(sequence_name(fmt::format("{}/forks/{}-{}", id_, name.host, name.digits), name.n));
  if (!blob) return std::nullopt;
  StoredHead stored = decode(std::move(blob->bytes), name.n);
  if (stored.head.host != name.host || !to_hex(stored.hash.view()).starts_with(name.digits)) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: in the place of fork {} lies another head", id_, fork));
  }
  return stored;
}

void Chain::verify_follows(StoredHead newest, std::uint64_t n, const Sha256& prev) {
  if (n == 1) return;  // it follows nothing, says its signature
  const auto base = ancestor(std::move(newest), n - 1);
  if (base && base->hash == prev) return;
  throw Error(
      ErrorKind::kHistory,
      fmt::format("{}: the history that this host trusts has another version {} than the one that was worked on", id_,
                  n - 1));
}

std::optional<std::vector<std::string>> Chain::forks() {
  const std::string prefix = id_ + "/forks/";
  const auto names = store_->list(prefix);
  if (!names) return std::nullopt;
  std::vector<std::string> forks;
  for (const auto& name : *names) {
    const auto slash = name.rfind('/');
    const auto n = sequence_number(name.substr(0, slash), name);
    if (slash < prefix.size() || !n) continue;
    forks.push_back(fmt::format("{}/{}", name.substr(prefix.size(), slash - prefix.size()), *n));
  }
  return forks;
}

StoredHead Chain::accept_older(std::uint64_t n, const std::string& reason) {
  if (reason.empty()) throw Error(ErrorKind::kUsage, "a reason is needed: --reason TEXT");
  auto stored = read(n);
  if (!stored) throw Error(ErrorKind::kNotFound, fmt::format("{} has no version {}", id_, n));
  trust_->accept_older(id_, seen_of(*stored), reason);
  keep(*stored);
  return std::move(*stored);
}

}  // namespace isr
