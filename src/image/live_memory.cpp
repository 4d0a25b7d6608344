// A copy holds the mutex shared while it looks for holes and writes. A hole holds it exclusively while it is
// recorded and zeroed. So a copy sees every hole before it, and a hole zeroes every copy before it.

#include "image/live_memory.h"

#include <algorithm>
#include <mutex>

namespace isr {

LiveMemory::LiveMemory(std::shared_ptr<ScratchOverlay> scratch, std::uint64_t size)
    : scratch_(std::move(scratch)), touched_(chunk_count(size)) {}

void LiveMemory::touch(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return;
  for (std::uint64_t chunk = offset / kChunkSize; chunk <= (offset + length - 1) / kChunkSize; ++chunk)
    touched_.at(chunk) = true;
}

void LiveMemory::write(std::uint64_t offset, ByteView data) {
  {
    const std::unique_lock lock(mutex_);
    touch(offset, data.size());
  }
  scratch_->write(offset, data);
}

void LiveMemory::zero(std::uint64_t offset, std::uint64_t length) {
  const std::unique_lock lock(mutex_);
  touch(offset, length);
  if (copying_) remember_hole(offset, offset + length);
  scratch_->zero(offset, length);
}

void LiveMemory::remember_hole(std::uint64_t begin, std::uint64_t end) {
  auto it = holes_.upper_bound(end);
  while (it != holes_.begin() && std::prev(it)->second >= begin) {
    --it;
    begin = std::min(begin, it->first);
    end = std::max(end, it->second);
    it = holes_.erase(it);
  }
  holes_.emplace(begin, end);
}

void LiveMemory::begin_copy() {
  const std::unique_lock lock(mutex_);
  holes_.clear();
  copying_ = true;
}

void LiveMemory::end_copy() {
  const std::unique_lock lock(mutex_);
  holes_.clear();
  copying_ = false;
}

std::vector<Extent> LiveMemory::copy(std::uint64_t offset, ByteView bytes) {
  const std::shared_lock lock(mutex_);
  std::vector<Extent> left_out;
  const std::uint64_t end = offset + bytes.size();
  std::uint64_t at = offset;
  auto hole = holes_.upper_bound(offset);
  if (hole != holes_.begin()) --hole;
  for (; at < end; ++hole) {
    while (hole != holes_.end() && hole->second <= at) ++hole;
    const std::uint64_t until = hole == holes_.end() ? end : std::clamp(hole->first, at, end);
    write_blocks(at, bytes.subspan(at - offset, until - at));
    if (until == end) break;
    at = std::min(hole->second, end);
    left_out.push_back({until, at - until});
  }
  return left_out;
}

void LiveMemory::write_blocks(std::uint64_t offset, ByteView bytes) {
  const std::size_t block = granularity();
  while (!bytes.empty()) {
    const bool zero = is_zero(bytes.first(block));
    std::size_t length = block;
    while (length < bytes.size() && is_zero(bytes.subspan(length, block)) == zero) length += block;
    if (zero) {
      scratch_->zero(offset, length);
    } else {
      scratch_->write(offset, bytes.first(length));
    }
    offset += length;
    bytes = bytes.subspan(length);
  }
}

std::vector<bool> LiveMemory::touched() const {
  const std::unique_lock lock(mutex_);
  return touched_;
}

}  // namespace isr
