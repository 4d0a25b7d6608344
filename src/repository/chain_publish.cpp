// Only one host can make version n: a put of a new name has one winner, and reading the name afterwards tells which
// host won.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "repository/chain.h"

namespace isr {

/// Called when the store has a head n. True when it is ours, false when another host's.
bool Chain::is_published(const StoredHead& ours) {
  const std::uint64_t n = ours.head.n;
  const auto there = store_->get(head_name(id_, n));
  if (!there) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: {} says that it has version {}, but does not give it", id_, store_->describe(), n));
  }
  if (std::ranges::equal(there->bytes, ours.blob)) return true;
  if (!find_head(there->bytes, signer_, id_, n)) refuse_junk(n, ours.head.prev_n());
  return false;
}

/// The hash of head n in the history that this host has seen: zero when the number holds junk, nullopt when the history
/// ends below n. Another process of this host may have seen more since the caller asked for the newest head.
std::optional<Sha256> Chain::seen_at(const std::optional<Seen>& seen, std::uint64_t n) {
  if (!seen || seen->n < n) return std::nullopt;
  const auto there = ancestor(read_seen(*seen), n);
  return there ? there->hash : Sha256{};
}

/// Does nothing when another process of this host has already seen a later head that follows ours.
void Chain::accept_published(const StoredHead& ours) {
  try {
    accept(ours);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kHistory || seen_at(trust_->seen(id_), ours.head.n) != ours.hash) throw;
  }
}

void Chain::make_durable(const StoredHead& ours) {
  if (!store_->writable()) return;
  try {
    store_->put_new(head_name(id_, ours.head.n), ours.blob);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    throw Error(ErrorKind::kTransient,
                fmt::format("{}: it is not known whether version {} is durable: {}", id_, ours.head.n, error.what()));
  }
}

std::optional<StoredHead> Chain::publish(std::uint64_t n, ByteView blob) {
  StoredHead ours = decode(to_bytes(blob), n);
  const auto seen = trust_->seen(id_);
  if (const auto there = seen_at(seen, n)) {
    if (*there != ours.hash) return std::nullopt;
    make_durable(ours);
    return ours;
  }
  trust_->check(id_, seen_of(ours));
  check_follows(ours, seen);
  const PutResult put = store_->put_new(head_name(id_, n), blob);
  if (!is_published(ours)) {
    if (put == PutResult::kCreated) {
      log::warn("{}: {} let two hosts write version {}; check it with: isr repo check", id_, store_->describe(), n);
    }
    return std::nullopt;
  }
  accept_published(ours);
  try {
    store_->put_hint(id_ + "/latest", as_bytes(fmt::format("{:016}\n", n)));
  } catch (const Error& error) {
    log::debug("{}: the hint could not be set: {}", id_, error.what());  // the hint only saves time
  }
  return ours;
}

}  // namespace isr
