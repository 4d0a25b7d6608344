#include "image/hot_pages.h"

#include "base/error.h"

namespace isr {
namespace {

constexpr std::uint64_t kMaxPackSize = kMaxBootHeadSize + kMaxBootPages * kBootPageSize;

constexpr std::chrono::seconds kPause{10};  // while the repository cannot be reached

std::uint64_t key_of(std::uint8_t image, std::uint64_t page) { return page << 8U | image; }

}  // namespace

HotPages::HotPages(ChunkReader& reader, const TreeRoot& pack, const std::stop_token& stop) : reader_(reader) {
  if (pack.size < kBootPageSize || pack.size > kMaxPackSize) {
    throw Error(ErrorKind::kCorrupt, "a boot pack has an impossible size");
  }
  refs_.resize(chunk_count(pack.size));
  const auto add = [&](std::uint64_t chunk, const ChunkRef& ref) {
    if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted");
    refs_[chunk] = ref;
  };
  for_each_chunk(reader_, pack, add, Priority::kReadahead, stop);
  const std::size_t size = boot_head_size(read_beginning(kBootPageSize, stop));
  if (size > pack.size) throw Error(ErrorKind::kCorrupt, "a boot pack is shorter than its head");
  head_ = parse_boot_head(read_beginning(size, stop), pack.size);
  for (std::size_t i = 0; i < head_.order.pages.size(); ++i) {
    const BootPlace& page = head_.order.pages[i];
    if (page != kUnusedPlace) places_.emplace(key_of(page.image, page.number), size + i * kBootPageSize);
  }
  auto state = state_.lock();
  state->here.resize(refs_.size());
  state->damaged.resize(refs_.size());
}

Bytes HotPages::read_beginning(std::size_t size, const std::stop_token& stop) {
  Bytes bytes(chunk_count(size) * kChunkSize);
  for (std::size_t i = 0; i < chunk_count(size); ++i) {
    if (refs_[i].is_zero()) continue;
    const ChunkData data = reader_.read_chunk(refs_[i], Priority::kReadahead, stop);
    std::copy(data->begin(), data->end(), bytes.begin() + static_cast<std::ptrdiff_t>(i * kChunkSize));
  }
  bytes.resize(size);
  return bytes;
}

void HotPages::bring(std::size_t chunk, const std::stop_token& stop) {
  if (refs_[chunk].is_zero() || state_.lock()->here[chunk]) return;
  if (!reader_.is_decoded(refs_[chunk])) reader_.bring(refs_[chunk], stop);
  ChunkData data = reader_.read_chunk(refs_[chunk], Priority::kReadahead, stop);
  state_.lock()->here[chunk] = std::move(data);
}

/// Null when it cannot be fetched. The caller then reads the page's own chunk, which may be on this host.
ChunkData HotPages::chunk(std::size_t index) {
  {
    auto state = state_.lock();
    const bool ask = !state->damaged[index] && std::chrono::steady_clock::now() >= state->asked_again;
    if (state->here[index] || !ask) return state->here[index];
  }
  try {
    ChunkData data = reader_.read_chunk(refs_[index], Priority::kImpatient);
    state_.lock()->here[index] = data;
    return data;
  } catch (const Error& error) {
    auto state = state_.lock();
    if (error.kind() == ErrorKind::kCorrupt) {
      state->damaged[index] = true;
    } else {
      state->asked_again = std::chrono::steady_clock::now() + kPause;
    }
    return nullptr;
  }
}

bool HotPages::read(std::uint8_t image, std::uint64_t offset, MutableBytes out) {
  const auto found = places_.find(key_of(image, offset / kBootPageSize));
  if (found == places_.end()) return false;
  const std::size_t index = found->second / kChunkSize;
  if (refs_[index].is_zero()) {
    std::fill(out.begin(), out.end(), std::uint8_t{0});
    return true;
  }
  const ChunkData data = chunk(index);
  if (!data) return false;
  const std::uint64_t within = found->second % kChunkSize + offset % kBootPageSize;
  std::copy_n(data->begin() + static_cast<std::ptrdiff_t>(within), out.size(), out.begin());
  return true;
}

}  // namespace isr
