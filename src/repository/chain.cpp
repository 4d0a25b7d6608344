// A host that has seen head s walks on from s, one head at a time, because only that shows that the new heads continue
// the history it has seen. A host that has seen nothing may begin at the hint. At the end of the walk, the list and the
// hint tell of later numbers. A head there was published after all numbers before it were used. So an empty number
// before it is either junk that a later head names, or a missing version.
//
// Junk: anybody who may create blobs can put anything under the next number, and no number can be written twice. So a
//       number that holds no head of the signer is used up. Only the user can decide to skip it (accept_older), because
//       the repository may use junk to hide a version. The head that is then put after it names the hash of the junk
//       under the owner's signature, and other hosts skip the junk because of that signature. A head is never junk, so
//       a host that has seen the hidden version refuses.
#include "repository/chain.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/log.h"
#include "base/sync.h"
#include "base/whole_file.h"
#include "repository/keybox.h"
#include "repository/sequence.h"

namespace isr {
namespace {

constexpr int kAttempts = 5;

/// Once per process, because a command looks for the newest head many times.
void warn_once(const std::string& text) {
  static Sync<std::set<std::string>> said;
  if (said.lock()->insert(text).second) log::warn("{}", text);
}

}  // namespace

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
    if (before && std::ranges::equal(*before, stored.blob)) return;
    make_private_directory(kept_.parent_path());
    replace_file(kept_, stored.blob);
  } catch (const Error& error) {
    log::warn("{}: version {} could not be kept for offline use: {}", id_, stored.head.n, error.what());
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

/// The content of a number: nothing, a head, or junk.
struct Chain::Place {
  std::optional<StoredHead> head{};
  std::optional<Sha256> junk{};
};

Chain::Place Chain::look(std::uint64_t n) {
  std::optional<Blob> blob;
  try {
    blob = store_->get(head_name(id_, n));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    return {.junk = head_hash({})};  // too large to be read counts as empty
  }
  if (!blob) return {};
  auto head = find_head(blob->bytes, signer_, id_, n);
  const Sha256 hash = head_hash(blob->bytes);
  if (!head) return {.junk = hash};
  return {.head = StoredHead{std::move(*head), hash, std::move(blob->bytes)}};
}

std::optional<StoredHead> Chain::read(std::uint64_t n) {
  if (n == 0 || n > kMaxSequence) return std::nullopt;
  return look(n).head;
}

/// The number in `latest`; 0 when it is absent or makes no sense.
std::uint64_t Chain::hinted() {
  std::optional<Blob> blob;
  try {
    blob = store_->get(id_ + "/latest", ByteRange{0, 32});
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;  // ignore an absurd hint
  }
  if (!blob) return 0;
  std::string_view text = as_text(blob->bytes);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return sequence_number("x", "x/" + std::string(text)).value_or(0);
}

/// The greatest version below n that accept_older() would accept; 0 when none is found.
std::uint64_t Chain::newest_below(std::uint64_t n) {
  try {
    const std::uint64_t greatest = std::min(newest_in_sequence(*store_, heads()), n - 1);
    for (std::uint64_t back = 0; back <= kMaxSkipped && back < greatest; ++back) {
      if (look(greatest - back).head) return greatest - back;
    }
  } catch (const Error& error) {
    log::debug("{}: no version below {} was found: {}", id_, n, error.what());  // the caller reports the roll-back
  }
  return 0;
}

StoredHead Chain::read_seen(const Seen& seen) {
  auto blob = store_->get(head_name(id_, seen.n));
  if (!blob) {
    refuse_history(
        id_,
        fmt::format("{}: the repository was rolled back: version {} of {}, which this host has seen, is gone", id_,
                    seen.n, to_rfc3339(seen.time)),
        newest_below(seen.n));
  }
  StoredHead stored = decode(std::move(blob->bytes), seen.n);
  if (stored.hash != seen.hash) {
    refuse_history(
        id_, fmt::format("{}: history was forked: version {} is not the one that this host has seen", id_, seen.n),
        seen.n);
  }
  return stored;
}

/// The head at which a host begins that has seen nothing of this chain.
std::optional<StoredHead> Chain::first_sight(std::uint64_t hint) {
  if (auto hinted = read(hint)) return hinted;  // a hint may be forged, so it need not point at a head
  std::vector<std::uint64_t> numbers = listed_numbers(*store_, heads(), kMaxSkipped);
  for (const std::uint64_t n : numbers) {
    const Place place = look(n);
    if (place.head) return place.head;
    if (!place.junk) {
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("{}: version {} is in the list of the repository, but cannot be read", id_, n));
    }
  }
  const auto first = store_->get(head_name(id_, 1));
  if (!first) return std::nullopt;
  return decode(to_bytes(first->bytes), 1);
}

/// The next head must continue `at` and name all junk in between.
void Chain::check_step(const StoredHead& at, const StoredHead& next) const {
  if (next.head.prev != at.hash || next.head.prev_n() != at.head.n) {
    refuse_history(
        id_, fmt::format("{}: history was forked: version {} does not follow version {}", id_, next.head.n, at.head.n),
        next.head.n);
  }
  if (next.head.epoch < at.head.epoch) {
    refuse_history(id_,
                   fmt::format("{}: version {} is under an older key than version {}", id_, next.head.n, at.head.n),
                   next.head.n);
  }
}

/// `between` is the content of the numbers between the two heads: junk, or nothing any more.
void Chain::check_skipped(const StoredHead& at, const StoredHead& next,
                          const std::vector<std::optional<Sha256>>& between) const {
  const auto is_named = [](const std::optional<Sha256>& junk, const Sha256& named) { return !junk || *junk == named; };
  const std::vector<Sha256>& named = next.head.skipped;
  if (std::equal(between.begin(), between.end(), named.begin(), named.end(), is_named)) return;
  refuse_history(id_,
                 fmt::format("{}: version {} names other junk than {} shows after version {}", id_, next.head.n,
                             store_->describe(), at.head.n),
                 next.head.n);
}

/// The head that follows `at`. nullopt when there is none before the first empty number; at.junk then has the contents
/// of the numbers up to there.
std::optional<StoredHead> Chain::step(StoredHead& at) {
  at.junk.clear();
  for (std::uint64_t n = at.head.n + 1; n <= kMaxSequence; ++n) {
    Place place = look(n);
    if (!place.head && !place.junk) return std::nullopt;
    if (place.junk) {
      at.junk.push_back(*place.junk);
      if (at.junk.size() > kMaxSkipped) refuse_endless_junk(at);
      continue;
    }
    check_step(at, *place.head);
    check_skipped(at, *place.head, {at.junk.begin(), at.junk.end()});
    return std::move(place.head);
  }
  return std::nullopt;
}

/// The numbers after n that the store names, in its list or the hint. There may be no blob under them.
std::vector<std::uint64_t> Chain::numbers_behind(std::uint64_t n, std::uint64_t hint) {
  std::vector<std::uint64_t> numbers;
  std::optional<ListPage> page;
  try {
    page = store_->list_page(heads() + "/", head_name(id_, n));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt && error.kind() != ErrorKind::kUnsupported) throw;  // go on without a list
  }
  for (const std::string& name : page ? page->names : std::vector<std::string>{}) {
    if (const auto number = sequence_number(heads(), name)) numbers.push_back(*number);
  }
  if (hint > n) numbers.push_back(hint);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

/// The head that follows `at` after empty numbers whose junk was removed; the head names that junk. nullopt: no head
/// follows `at`.
std::optional<StoredHead> Chain::step_over_gap(const StoredHead& at, std::uint64_t hint) {
  const std::vector<std::uint64_t> named = numbers_behind(at.head.n, hint);
  if (named.empty()) return std::nullopt;
  const std::uint64_t last = std::min(named.back(), at.head.n + kMaxSkipped + 1);
  std::vector<std::optional<Sha256>> between;
  for (std::uint64_t n = at.head.n + 1; n <= last; ++n) {
    Place place = look(n);
    if (!place.head) {
      between.push_back(place.junk);
      continue;
    }
    if (place.head->head.prev_n() > at.head.n) refuse_missing(place.head->head.prev_n(), n);
    check_step(at, *place.head);
    check_skipped(at, *place.head, between);
    return std::move(place.head);
  }
  std::size_t looks = 0;
  for (auto n = named.rbegin(); n != named.rend() && *n > last && looks < kMaxSkipped; ++n, ++looks) {
    if (look(*n).head) refuse_missing(at.head.n + 1, *n);
  }
  return std::nullopt;
}

void Chain::refuse_missing(std::uint64_t n, std::uint64_t later) const {
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: version {} is missing, though there is a version {}", id_, n, later),
              {"nothing was changed here", accept_older_hint(id_, later, "if it is lost for good:")});
}

void Chain::refuse_endless_junk(const StoredHead& at) const {
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: {} has something that is not a version under each of the {} numbers "
                          "after version {}",
                          id_, store_->describe(), at.junk.size(), at.head.n),
              {"an administrator of the repository must remove it; nothing was changed here"});
}

StoredHead Chain::walk_forward(StoredHead at, std::uint64_t hint) {
  for (;;) {
    auto next = step(at);
    if (!next) next = step_over_gap(at, hint);
    if (!next) return at;
    at = std::move(*next);
  }
}

void Chain::report_junk(const StoredHead& newest, const std::optional<Seen>& seen) const {
  if (newest.junk.empty() || (seen && seen->n == newest.head.n && seen->junk == newest.junk)) return;
  const std::string what =
      fmt::format("{}: the number {} holds something that is not a version", id_, newest.head.n + 1);
  if (!seen) {
    refuse_history(id_, what + "; it may hide newer versions, and this host has seen no version here before",
                   newest.head.n, "if you know that there is no newer version:");
  }
  warn_once(fmt::format("{}; version {} is taken as the newest (isr accept-older makes the next versions follow it)",
                        what, newest.head.n));
}

std::optional<StoredHead> Chain::find_newest(const std::optional<Seen>& seen) {
  const std::uint64_t hint = hinted();
  auto start = seen ? read_seen(*seen) : first_sight(hint);
  if (!start) return std::nullopt;
  StoredHead newest = walk_forward(std::move(*start), hint);
  report_junk(newest, seen);
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
  const std::uint64_t n = later.head.prev_n();
  if (n == 0) return std::nullopt;
  auto blob = store_->get(head_name(id_, n));
  if (!blob) throw Error(ErrorKind::kHistory, fmt::format("{}: version {} is gone", id_, n));
  StoredHead stored = decode(std::move(blob->bytes), n);
  if (stored.hash != later.head.prev) {
    throw Error(ErrorKind::kHistory, fmt::format("{}: version {} does not follow version {}", id_, later.head.n, n));
  }
  return stored;
}

std::optional<StoredHead> Chain::ancestor(StoredHead newest, std::uint64_t n) {
  if (n == 0 || n > newest.head.n) return std::nullopt;
  std::optional<StoredHead> at = std::move(newest);
  while (at && at->head.n > n) at = before(*at);
  if (at && at->head.n < n) return std::nullopt;  // junk that was skipped
  return at;
}

/// A store that was rolled back or forked must not get a new head above the gap.
void Chain::check_follows(const StoredHead& ours, const std::optional<Seen>& seen) {
  const std::uint64_t n = ours.head.n;
  const std::vector<Sha256>& skipped = ours.head.skipped;
  const std::uint64_t prev = ours.head.prev_n();
  const bool accepted = skipped.empty() || (seen && skipped == seen->junk);
  const bool follows = !seen || (prev == seen->n && ours.head.prev == seen->hash && accepted);
  if (!follows) {
    refuse_history(id_, fmt::format("{}: version {} does not follow what this host has seen", id_, n), seen->n);
  }
  if (n == 1) return;
  const auto before = store_->get(head_name(id_, prev));
  if (!before) {
    refuse_history(id_, fmt::format("{}: the repository was rolled back: version {} is gone", id_, prev), prev);
  }
  if (head_hash(before->bytes) != ours.head.prev) {
    refuse_history(
        id_, fmt::format("{}: history was forked: version {} is not the one that version {} follows", id_, prev, n),
        prev);
  }
}

void Chain::refuse_junk(std::uint64_t n, std::uint64_t newest) const {
  refuse_history(
      id_,
      fmt::format("{}: the number {} holds something that is not a version, so no version can be put there", id_, n),
      newest, "if no other host has published:");
}

HeadPlace Chain::next(const std::optional<StoredHead>& newest) {
  if (!newest) return {};
  const auto seen = trust_->seen(id_);
  const bool accepted = seen && seen->n == newest->head.n && seen->junk == newest->junk;
  if (!newest->junk.empty() && !accepted) refuse_junk(newest->head.n + 1, newest->head.n);
  return {newest->head.n + 1 + newest->junk.size(), newest->hash, newest->junk};
}

StoredHead Chain::accept_older(std::uint64_t n, const std::string& reason) {
  if (reason.empty()) throw Error(ErrorKind::kUsage, "a reason is needed: --reason TEXT");
  auto stored = read(n);
  if (!stored) throw Error(ErrorKind::kNotFound, fmt::format("{} has no version {}", id_, n));
  find_junk(*stored);
  Seen seen = seen_of(*stored);
  seen.junk = stored->junk;
  trust_->accept_older(id_, seen, reason);
  keep(*stored);
  return std::move(*stored);
}

/// Finds the junk after a head that becomes the newest trusted one. Stops at the next head, because that one names the
/// junk before it itself.
void Chain::find_junk(StoredHead& at) {
  for (std::uint64_t n = at.head.n + 1; n <= kMaxSequence && at.junk.size() < kMaxSkipped; ++n) {
    const Place place = look(n);
    if (place.head) at.junk.clear();
    if (!place.junk) return;
    at.junk.push_back(*place.junk);
  }
}

}  // namespace isr
