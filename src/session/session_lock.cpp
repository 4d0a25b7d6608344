#include "session/session_lock.h"

#include <fmt/format.h>

#include "base/log.h"

namespace isr {

SessionLock::SessionLock(Account& account, const ParcelEntry& parcel, StateFile& state)
    : account_(account), parcel_(parcel), state_(state) {}

void SessionLock::note() const { note_lock(account_.host, parcel_.id, state_.now().hold); }

LockReturn SessionLock::give_back() const { return give_back_lock(account_, parcel_.id, state_.now().hold); }

LockRequest SessionLock::request() const {
  return {.hold = state_.now().hold,
          .mode = state_.now().lock_mode,
          .base = {.chain = parcel_.chain(), .n = state_.now().base, .hash = state_.now().base_hash}};
}

bool SessionLock::keep(const std::stop_token& stop) {
  ParcelLock lock = account_.lock(parcel_, stop);
  try {
    lock.keep(request());
  } catch (const LockedError& locked) {
    if (locked.ruling().is_moved_hold(state_.now().hold)) refuse_moved(locked.ruling());
    return false;
  }
  resume_lease();
  return true;
}

/// Takes the lock under a new hold, so that a copy of this session, which knows only the old hold, is not taken for the
/// holder.
void SessionLock::take_over(const std::string& reason, const std::stop_token& stop) {
  const LockRequest wanted = request();
  const LockRecord taken = take_lock(account_, parcel_, wanted.mode, wanted.base, reason, stop);
  state_.change([&](SessionState& next) { next.hold = taken.hold; });
  forget_lock(account_.host, parcel_.id, taken.hold);
  lease_.reset();  // it renewed the old hold
}

bool SessionLock::secure(const std::optional<std::string>& steal_reason, const std::stop_token& stop) {
  try {
    account_.remote.go_online(stop);
    ParcelLock lock = account_.lock(parcel_, stop);
    const auto ruling = lock.show();
    if (ruling && ruling->is_hold(state_.now().hold)) {
      resume_lease();
      return true;
    }
    if (!steal_reason) {
      const bool is_anothers = ruling && ruling->record.held && !ruling->ours;
      if (is_anothers) ruling->is_moved_hold(state_.now().hold) ? refuse_moved(*ruling) : refuse_lost(*ruling);
      const auto newest = account_.chain(parcel_.chain(), stop).newest();
      if (newest && newest->hash != state_.now().base_hash && state_.now().find_pending(*newest) == nullptr)
        refuse_passed_by(newest->head.n);
    }
    if (steal_reason) {
      take_over(*steal_reason, stop);
    } else {
      lock.acquire(request());
    }
    resume_lease();
    log::info("this session has the lock again");
    return true;
  } catch (const Error& error) {
    const bool is_out_of_reach = error.kind() == ErrorKind::kTransient || error.kind() == ErrorKind::kOffline;
    // With a reason the user asked for the lock, so a failure must not be ignored.
    if (!is_out_of_reach || steal_reason) throw;
    log::warn("cannot tell who has the lock: {}", error.what());
    return false;
  }
}

namespace {

std::string having_both(const std::string& name) {
  return fmt::format(
      "to have both             isr suspend {0}    keeps this one as a fork, isr branch {0}@FORK NEW opens it", name);
}

}  // namespace

std::string SessionLock::going_on() const {
  const std::string_view command = state_.now().phase == SessionPhase::kSuspended ? "resume" : "checkout";
  return fmt::format("to go on with this one   isr {} {} --take-lock", command, parcel_.name);
}

void SessionLock::refuse_lost(const LockRuling& ruling) const {
  const std::string seen = ruling.age ? ", last seen " + describe_age(*ruling.age) : std::string();
  throw Error(
      ErrorKind::kLocked,
      fmt::format("{} has taken over {} (since {}{}); the work here is kept", ruling.record.host, parcel_.name,
                  to_rfc3339(ruling.record.since), seen),
      {going_on(),
       fmt::format("to take the other        isr discard {0} && isr checkin {0}    and, once {1} has suspended it, "
                   "isr resume {0}",
                   parcel_.name, ruling.record.host),
       having_both(parcel_.name)});
}

/// Refuses because the state directory was moved, or is a copy of one that is still in use. Only the user knows which.
void SessionLock::refuse_moved(const LockRuling& ruling) const {
  throw Error(ErrorKind::kLocked,
              fmt::format("the lock of {} was taken on {} before this state directory was moved, or by the directory "
                          "from which this one was copied (since {}); the work here is kept",
                          parcel_.name, ruling.record.host, to_rfc3339(ruling.record.since)),
              {"if it was moved             the same command with --take-lock",
               fmt::format("if the original is in use   isr discard {0} && isr checkin {0}    gives this copy up",
                           parcel_.name)});
}

void SessionLock::refuse_passed_by(std::uint64_t newest) const {
  throw Error(
      ErrorKind::kHistory,
      fmt::format("another host has published version {} of {}; the work here comes from version {}, and is kept",
                  newest, parcel_.name, state_.now().base),
      {going_on() + fmt::format("    its suspend becomes a fork, isr rollback {}@FORK puts that on top", parcel_.name),
       fmt::format("to take the other        isr discard {0} && isr checkin {0} && isr resume {0}", parcel_.name),
       having_both(parcel_.name)});
}

void SessionLock::keep_lease(LeaseKeeper::OnLost on_lost) {
  on_lease_lost_ = std::move(on_lost);
  resume_lease();
}

void SessionLock::resume_lease() {
  if (!on_lease_lost_ || state_.now().lock_mode != LockMode::kAttended) return;
  if (lease_ && !lease_->lost()) return;
  // Offline, the keeper opens a store of its own, because the account gets one only when a command goes online.
  auto open = [store = account_.remote.store, entry = account_.remote.entry, info = account_.remote.info,
               options = account_.remote.store_options, chain = parcel_.chain(), key = account_.identity.signing,
               host = account_.host.holder,
               lease = account_.host.lease()](const std::stop_token& stop) mutable -> ParcelLock {
    if (!store) store = open_pinned_store(entry, info, options, stop);
    return {make_stoppable(store, stop), chain, key, host, lease};
  };
  LockRecord held;
  held.hold = state_.now().hold;
  held.lease = account_.host.lease();
  lease_.emplace(held, std::move(open), on_lease_lost_);
  try {
    lease_->start();
  } catch (const std::system_error& error) {
    lease_.reset();
    log::warn("the lease is not renewed: {}", error.what());
  }
}

}  // namespace isr
