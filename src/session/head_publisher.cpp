// Before a head is put, the state file names it by number and hash. So after a crash the session recognises its own
// head in the repository.

#include "session/head_publisher.h"

#include <fmt/format.h>

#include "base/log.h"
#include "chunkstore/stack.h"
#include "image/chunk_reader.h"

namespace isr {
namespace {

constexpr int kLateAnswers = 4;          // own heads that may arrive late during one put()
constexpr std::size_t kMaxPending = 64;  // remembered publishes without an answer; the oldest is forgotten first

}  // namespace

HeadPublisher::HeadPublisher(const Account& account, const ParcelEntry& parcel, StateFile& state, SessionLock& lock)
    : account_(account), parcel_(parcel), state_(state), lock_(lock) {}

namespace {

/// Makes the version of a publish that was found in the repository the session's base. The journal records that it
/// covers become void.
void rebase_on(const PendingPublish& pending, SessionState& state, const ParcelVersion& version) {
  for (SessionImage& image : state.images) {
    const auto it = pending.void_below.find(image.number);
    if (it == pending.void_below.end()) continue;  // the publish does not cover it, or the image was begun anew since
    image.image.content = version.find(image.image.name)->content;
    image.void_below = std::max(image.void_below, it->second);
  }
  state.base = pending.n;
  state.base_hash = pending.hash;
  state.content = state.base;
  state.base_version = version;
  state.pending.clear();
  state.upload_begun = false;
}

/// Adds the ways out as hints to a refusal of the history between the session's base and the newest version.
Error with_ways_out(const Error& refusal, const std::string& parcel) {
  return {ErrorKind::kHistory,
          refusal.what(),
          {fmt::format("the work stays in this session; isr stat {} says where its disks are, to copy them", parcel),
           fmt::format("to give it up    isr discard {0}, then isr checkin {0}", parcel)}};
}

}  // namespace

/// Looks for a publish whose answer was lost. It may have happened, and other hosts may have published behind it.
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
    chain.make_durable(*head);  // before this host drops its copy of the data
    state_.change([&, made = pending](SessionState& next) { rebase_on(made, next, version); });
    log::info("version {} had been published before the interruption", state_.now().base);
    return;
  }
}

/// Runs before the replay, because the journal records that an interrupted publish covers are void if it did happen.
/// When the repository gives no answer, the session opens as it does offline, so that the user can reach the work;
/// publish() asks again.
void HeadPublisher::resolve_at_open() {
  if (state_.now().pending.empty() || account_.remote.offline()) return;
  try {
    Chain chain = account_.chain(parcel_.chain());
    resolve(chain, chain.newest());
  } catch (const Error& error) {
    const ErrorKind kind = error.kind();
    if (kind != ErrorKind::kHistory && kind != ErrorKind::kCorrupt && kind != ErrorKind::kTransient) throw;
    log::warn("cannot tell yet whether the last publish happened; the next publish asks again: {}", error.what());
  }
}

/// Keeps a head as a fork when another host has published first or has the lock. Then opens the fork: it is the only
/// copy of the work once the session has ended.
std::string HeadPublisher::keep_fork(std::uint64_t n, ByteView blob, const std::stop_token& stop) {
  const std::string fork = account_.chain(parcel_.chain(), stop).keep_fork(n, blob);
  SourceStats stats;
  ChunkReader repository(open_stack({repository_tier(make_stoppable(account_.remote.store, stop), stats.link)}, stats),
                         ReaderOptions{0, 16, 1});
  for (const VersionImage& image : load_version(account_, parcel_, {{}, fork}, stop).version.images) {
    const ChunkRef& root = image.content.tree.root;
    if (!root.is_zero()) repository.read_page(root, Priority::kUpload);
    for (const TreeRoot& patch : image.content.patches) repository.read_page(patch.root, Priority::kUpload);
  }
  return fork;
}

/// Throws Error{kHistory} unless the session's base version is in the history, because a fork of any other version
/// cannot be opened.
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
    // keep() takes a free lock again. This is safe because the number of the head keeps other hosts out.
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
      // An earlier head of this session may have arrived after newest().
      if (there && state_.now().find_pending(*there) != nullptr) continue;
    }
    if (newest) require_base(*newest, stop);
    result.fork = keep_fork(place.n, blob, stop);
    result.version = state_.now().base;
    return result;
  }
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: the repository keeps returning other heads of this session", parcel_.name));
}

/// Returns a refused history instead of throwing it, so that a session whose changes were discarded can end.
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
