// Any read begins a stream. The stream is sequential once a read begins exactly where the one before ended. From then
// on, reads may come in another order or leave a little out. Its window of chunks doubles up to a limit.

#include "image/read_ahead.h"

#include <algorithm>

#include "chunkstore/object.h"

namespace isr {
namespace {

constexpr std::uint64_t kFirstWindow = 4;         // chunks
constexpr std::uint64_t kSlack = 8 * kChunkSize;  // a read this far from the expected place still belongs to the stream
constexpr std::uint64_t kForgottenAfter = 256;    // reads; after that the stream may be replaced by another

}  // namespace

ReadAhead::Stream* ReadAhead::find(std::uint64_t offset) {
  for (Stream& stream : streams_) {
    if (stream.used != 0 && stream.next == offset) return &stream;
  }
  for (Stream& stream : streams_) {
    const bool near = offset + kSlack >= stream.next && offset <= stream.next + kSlack;
    if (stream.window != 0 && near) return &stream;
  }
  return nullptr;
}

/// The stream to reuse: single reads before streams that are still followed.
ReadAhead::Stream& ReadAhead::oldest() {
  const auto rank = [&](const Stream& stream) {
    const bool followed = stream.window != 0 && clock_ - stream.used < kForgottenAfter;
    return std::pair(followed, stream.used);
  };
  return *std::min_element(streams_.begin(), streams_.end(),
                           [&](const Stream& a, const Stream& b) { return rank(a) < rank(b); });
}

AheadRange ReadAhead::on_read(std::uint64_t offset, std::uint64_t length, std::uint64_t chunk_count,
                              std::uint64_t most) {
  ++clock_;
  const std::uint64_t first = offset / kChunkSize + 1;  // the caller fetches its first chunk itself
  const std::uint64_t here = (offset + length + kChunkSize - 1) / kChunkSize;
  Stream* stream = find(offset);
  if (stream == nullptr) {
    stream = &oldest();
    *stream = {offset + length, here, 0, clock_};
    return {first, here, false};  // one large read spans chunks that can be fetched at the same time
  }
  stream->used = clock_;
  stream->next = std::max(stream->next, offset + length);
  const std::uint64_t from = std::max(stream->ahead, first);
  // Asks again only when half of the window is used up, so that the threads get work in batches.
  const bool is_enough = stream->window != 0 && stream->ahead >= here + (stream->window + 1) / 2;
  if (is_enough) return {from, from, true};
  stream->window = std::min(std::max(stream->window * 2, kFirstWindow), std::max<std::uint64_t>(most, 1));
  const std::uint64_t end = std::min(here + stream->window, chunk_count);
  stream->ahead = std::max(stream->ahead, end);
  return {from, std::max(from, end), true};
}

}  // namespace isr
