// The state file says before a head is put which one it will be, so that after a crash the same head in the
// repository is known to be ours.

#include "session/head_publisher.h"

#include <fmt/format.h>

#include "base/log.h"
#include "chunkstore/stack.h"
#include "image/chunk_reader.h"

namespace isr {
namespace {

constexpr int kLateAnswers = 4;          // heads of ours that turn up while we publish
constexpr std::size_t kMaxPending = 64;  // publishes in a row without an answer

}  // namespace

HeadPublisher::HeadPublisher(const Account& account, const ParcelEntry& parcel, StateFile& state, SessionLock& lock)
    : account_(account), parcel_(parcel), state_(state), lock_(lock) {}

namespace {

/// It is in the repository, and its version is the base now: what it covers is void.
void rebase_on(const PendingPublish& pending, SessionState& state, const ParcelVersion& version) {
  for (SessionImage& image : state.images) {
    const auto it = pending.void_below.find(image.number);
    if (it == pending.void_below.end()) continue;  // not published, or begun anew since
    image.image.tree = version.find(image.image.name)->tree;
    image.void_below = std::max(image.void_below, it->second);
  }
  state.base = pending.n;
  state.base_hash = pending.hash;
  state.content = state.base;
  state.base_version = version;
  state.pending.clear();
  state.upload_begun = false;
}

/// The history between the session's base and the newest version is refused.
Error with_ways_out(const Error& refusal, const std::string& parcel) {
  return {ErrorKind::kHistory,
          refusal.what(),
          {fmt::format("the work stays in this session; isr stat {} says where its disks are, to copy them", parcel),
           fmt::format("to give it up    isr discard {0}, then isr checkin {0}", parcel)}};
}

}  // namespace

/// A publish of ours whose answer was lost may have happened, and others may have published behind it.
void HeadPublisher::resolve(Chain& chain, const std::optional<StoredHead>& newest) {
  if (!newest) return;
  for (const PendingPublish& pending : state_.now().pending) {
    std::optional<StoredHead> head;
    try {
      head = chain.ancestor(*newest, pending.n);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kHistory) throw;
      throw with_ways_out(error, parcel_.name);
    }
    if (!head || head->hash != pending.hash) continue;
    const ParcelVersion version = open_version(parcel_, head->head);
    chain.make_durable(*head);  // before what it holds is dropped here
    state_.change([&, made = pending](SessionState& next) { rebase_on(made, next, version); });
    log::info("version {} had been published before the interruption", state_.now().base);
    return;
  }
}

/// Before the replay: when a publish that a crash interrupted did happen, what it covers is void. Without an answer
/// the session opens as it does offline, so that the work can be reached; publish() asks again.
void HeadPublisher::resolve_at_open() {
  if (state_.now().pending.empty() || account_.remote.offline()) return;
  try {
    Chain chain = account_.chain(parcel_.chain());
    resolve(chain, chain.newest());
  } catch (const Error& error) {
    const ErrorKind kind = error.kind();
    if (kind != ErrorKind::kHistory && kind != ErrorKind::kCorrupt && kind != ErrorKind::kTransient) throw;
    log::warn("it is not known whether the last publish happened; the next one asks again: {}", error.what());
  }
}

/// Keeps a head that lost the race, and opens what was kept: it is all that is left once the session ends.
std::string HeadPublisher::keep_fork(std::uint64_t n, ByteView blob, const std::stop_token& stop) {
  const std::string fork = account_.chain(parcel_.chain(), stop).keep_fork(n, blob);
  SourceStats stats;
  ChunkReader repository(open_stack({repository_tier(make_stoppable(account_.remote.store, stop), stats.link)}, stats),
                         ReaderOptions{0, 16, 1});
  for (const VersionImage& image : load_version(account_, parcel_, {{}, fork}, stop).version.images) {
    if (!image.tree.root.is_zero()) repository.read_page(image.tree.root, Priority::kUpload);
  }
  return fork;
}

/// Error{kHistory} unless the session's base version is in the history. A fork of any other version cannot be opened.
void HeadPublisher::require_base(const StoredHead& newest, const std::stop_token& stop) {
  try {
    account_.chain(parcel_.chain(), stop).verify_base(newest, state_.now().base, state_.now().base_hash);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kHistory) throw;
    throw with_ways_out(error, parcel_.name);
  }
}

PutHead HeadPublisher::put(const ParcelVersion& version, const VoidBelow& void_below, const std::stop_token& stop) {
  PutHead result;
  Chain chain = account_.chain(parcel_.chain(), stop);
  for (int round = 0; round < kLateAnswers; ++round) {
    const auto newest = chain.newest();
    resolve(chain, newest);
    bool fork = newest && newest->hash != state_.now().base_hash;
    // A lock that is free is taken again: the number is what keeps others out.
    if (!fork) fork = result.is_lock_lost = !lock_.keep(stop);
    HeadPlace place{state_.now().base + 1, state_.now().base_hash};
    if (!fork && newest) place = chain.next(newest);
    const Bytes blob = make_head(account_, parcel_, place, version);
    if (!fork) {
      state_.change([&](SessionState& next) {
        if (next.pending.size() == kMaxPending) next.pending.erase(next.pending.begin());
        next.pending.push_back({place.n, head_hash(blob), void_below});
      });
      if (auto head = chain.publish(place.n, blob)) {
        result.version = place.n;
        result.head = std::move(head);
        return result;
      }
      const auto there = chain.read(place.n);
      if (there && state_.now().find_pending(*there) != nullptr) continue;  // ours was late, behind newest()
    }
    if (newest) require_base(*newest, stop);
    result.fork = keep_fork(place.n, blob, stop);
    result.version = state_.now().base;
    return result;
  }
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: the repository gives each time another head of ours", parcel_.name));
}

/// Returns the refusal when the history does not tell whether a publish happened: work that was discarded since can be
/// given up nonetheless.
std::optional<Error> HeadPublisher::resolve(const std::stop_token& stop) {
  if (state_.now().pending.empty()) return std::nullopt;
  Chain chain = account_.chain(parcel_.chain(), stop);
  const auto newest = chain.newest();
  try {
    resolve(chain, newest);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kHistory) throw;
    return error;
  }
  return std::nullopt;
}

}  // namespace isr
