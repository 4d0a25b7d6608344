#include "session/session.h"

#include "base/file_lock.h"
#include "base/log.h"

namespace isr {
namespace {

/// Calls take_parcel() only when there is a session, because take_parcel() makes the directory.
FileLock take_session(const Account& account, const ParcelEntry& parcel) {
  if (!fs::exists(account.host.parcel_directory(parcel) / "session")) refuse_without_session(parcel);
  return take_parcel(account.host, parcel);
}

}  // namespace

Session::Session(Account& account, const ParcelEntry& parcel)
    : parcel_(parcel),
      flock_(take_session(account, parcel_)),
      state_(account.host, parcel_),
      objects_(account, state_.directory()),
      lock_(account, parcel_, state_),
      heads_(account, parcel_, state_, lock_),
      images_(account.host, parcel_, state_, objects_),
      settler_(images_, objects_),
      prefetch_(account.host, parcel_, state_, images_, objects_),
      memory_(parcel_, state_, images_, objects_, prefetch_),
      publisher_({account, parcel_, state_, objects_, images_, settler_, prefetch_, memory_, heads_}) {
  heads_.resolve_at_open();
  images_.open();
  if (session_transition(state_.now().phase, SessionEvent::kOpen).voids_memory) {
    log::warn("the last run ended without a suspend; disks are as of the last write, memory is gone");
    memory_.drop();
  }
}

Session::~Session() {
  cancel();
  lock_.end_lease();  // before the parts go, because on_lost may use them
  try {
    state_.write_if_behind();
  } catch (const std::exception& error) {
    log::warn("{}", error.what());
  }
}

void Session::take_back_network(NetworkMode mode) {
  if (state_.now().vm.network != mode) state_.change_in_memory([&](SessionState& next) { next.vm.network = mode; });
}

void Session::keep_network(NetworkMode mode) {
  if (state_.now().vm.network != mode) state_.change([&](SessionState& next) { next.vm.network = mode; });
}

LockReturn Session::end(const std::function<void()>& before) {
  require_transition(state_.now().phase, SessionEvent::kEnd, parcel_.name);
  publisher_.require_published();
  lock_.note();
  if (before) before();
  take_directory_away(state_.directory());
  lock_.end_lease();
  cancel();
  const LockReturn returned = lock_.give_back();
  remove_ended_directories(state_.directory());
  return returned;
}

void Session::interrupt_reads() {
  prefetch_.end_fill();
  objects_.interrupt();
}

void Session::cancel() {
  prefetch_.request_stop();
  objects_.cancel();
}

SessionStats Session::stats() const {
  const SessionState& state = state_.now();
  SessionStats out;
  out.parcel = state.parcel_name;
  out.version = state.base;
  out.content = state.content;
  out.phase = state.phase;
  out.since = state.since;
  for (const SessionPart& part : images_.parts()) {
    const bool is_live = part.role == ImageRole::kMemory && memory_.image();
    const auto image = is_live ? memory_.image() : part.image;
    const std::size_t dirty = is_live ? *memory_.changed_chunks() : part.overlay->dirty_chunks().size();
    out.changed_bytes += dirty * kChunkSize;
    const ImageCounters& counters = image->counters();
    out.images.push_back({.name = part.name,
                          .size = image->size(),
                          .changed_chunks = dirty,
                          .read_bytes = counters.read_bytes.load(),
                          .written_bytes = counters.written_bytes.load(),
                          .reads = counters.reads.load(),
                          .writes = counters.writes.load(),
                          .flushes = counters.flushes.load(),
                          .hot_pages = counters.hot_pages.load(),
                          .read_errors = counters.read_errors.load()});
  }
  out.journal_bytes = images_.journal_bytes();
  out.sources = objects_.stats();
  out.uploaded_bytes = publisher_.uploaded_bytes();
  prefetch_.add_stats(out);
  return out;
}

}  // namespace isr
