#include "support/memory_source.h"

#include "base/error.h"
#include "chunkstore/layers.h"

namespace isr::test {

void MemorySource::hold() { state_.lock()->held = true; }

void MemorySource::release() {
  state_.lock()->held = false;
  changed_.notify_all();
}

void MemorySource::wait_for_fetches(std::size_t count) {
  auto state = state_.lock();
  changed_.wait(state.mutex_lock(), [&] { return state->fetches >= count; });
}

std::optional<Bytes> MemorySource::fetch(const Cid& cid, Priority /*priority*/, std::stop_token stop) {
  auto state = state_.lock();
  ++state->fetches;
  changed_.notify_all();
  const bool released = changed_.wait(state.mutex_lock(), stop, [&] { return !state->held; });
  if (!released || stop.stop_requested()) throw Error(ErrorKind::kCancelled, "cancelled");
  const auto it = state->objects.find(cid);
  if (it == state->objects.end()) return std::nullopt;
  return it->second;
}

void MemorySource::drop(const Cid& cid) { state_.lock()->dropped.push_back(cid); }

std::optional<Bytes> FaultSource::fetch(const Cid& cid, Priority priority, std::stop_token stop) {
  {
    auto left = left_.lock();
    if (*left > 0) {
      --*left;
      throw Error(kind_, "a failure that the test asked for");
    }
  }
  return inner_->fetch(cid, priority, std::move(stop));
}

SourcePtr verified_tiers(SourcePtr lookaside, SourcePtr repository) {
  static SourceStats stats;
  return make_tiered(
      {{"lookaside", std::move(lookaside), Trust::kClaimed}, {"repository", std::move(repository), Trust::kAuthority}},
      stats);
}

}  // namespace isr::test
