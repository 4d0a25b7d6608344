#include "image/first_touches.h"

#include "chunkstore/object.h"

namespace isr {

void FirstTouches::Kind::note(BootPlace place, std::size_t most) {
  if (order.size() < most && seen.insert(place.number << 8U | place.image).second) order.push_back(place);
}

void FirstTouches::note(std::uint8_t image, std::uint64_t offset, std::uint64_t length, Time now) {
  if (length == 0 || ended_.load(std::memory_order_relaxed)) return;
  auto state = state_.lock();
  if (!state->began) state->began = now;
  const auto since = now - *state->began;
  if (since > std::max(limits_.pages_for, limits_.chunks_for)) {
    ended_ = true;
    state->pages.seen = {};
    state->chunks.seen = {};
    return;
  }
  const std::uint64_t last = offset + length - 1;
  if (since <= limits_.pages_for) {
    for (std::uint64_t page = offset / kBootPageSize; page <= last / kBootPageSize; ++page) {
      state->pages.note({image, page}, limits_.pages);
    }
  }
  if (since <= limits_.chunks_for) {
    for (std::uint64_t chunk = offset / kChunkSize; chunk <= last / kChunkSize; ++chunk) {
      state->chunks.note({image, chunk}, limits_.chunks);
    }
  }
}

BootOrder FirstTouches::order() const {
  auto state = state_.lock();
  return {state->pages.order, state->chunks.order};
}

}  // namespace isr
