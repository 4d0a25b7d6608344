// A read asks the overlay first and then, for what is not there, the chunk that
// replaces the tree's or the tree's own. Sequential reads double a window of
// chunks that prefetch threads decode ahead; any jump closes the window.

#include "image/image.h"

#include <fmt/format.h>

namespace isr {
namespace {

constexpr std::uint64_t kMaxWindow = 32;   // chunks: 4 MiB ahead fills 100 Mbit/s at 40 ms several times
constexpr std::uint64_t kFirstWindow = 2;  // chunks

}  // namespace

Image::Image(std::string name, TreeRoot base, std::shared_ptr<ChunkReader> reader, std::shared_ptr<Overlay> overlay)
    : name_(std::move(name)),
      size_(base.size),
      base_(base),
      reader_(std::move(reader)),
      overlay_(std::move(overlay)) {}

TreeRoot Image::base() const { return *base_.lock(); }

void Image::set_base(const TreeRoot& base) { *base_.lock() = base; }

std::size_t Image::read(std::uint64_t offset, MutableBytes out) {
  if (offset >= size_) return 0;
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size_ - offset));
  out = out.first(length);
  try {
    if (overlay_) {
      for (const Extent& gap : overlay_->read(offset, out)) {
        read_below(gap.offset, out.subspan(gap.offset - offset, gap.length));
      }
    } else {
      read_below(offset, out);
    }
  } catch (const Error&) {
    ++counters_.read_errors;
    throw;
  }
  ++counters_.reads;
  counters_.read_bytes += length;
  return length;
}

ChunkRef Image::reference(std::uint64_t chunk, Priority priority) {
  // Overlay before base: a publish sets the new base before it drops what the base now holds.
  if (overlay_) {
    if (const auto replaced = overlay_->replaced(chunk)) return *replaced;
  }
  return find_chunk(*reader_, base(), chunk, priority);
}

void Image::read_below(std::uint64_t offset, MutableBytes out) {
  read_ahead(offset, out.size());
  while (!out.empty()) {
    const std::uint64_t chunk = offset / kChunkSize;
    const std::size_t within = offset % kChunkSize;
    const std::size_t length = std::min(out.size(), kChunkSize - within);
    const ChunkRef ref = reference(chunk, Priority::kGuest);
    if (ref.is_zero()) {
      std::fill_n(out.begin(), length, std::uint8_t{0});
    } else {
      const ChunkData data = reader_->read_chunk(ref);
      std::copy_n(data->begin() + static_cast<std::ptrdiff_t>(within), length, out.begin());
    }
    offset += length;
    out = out.subspan(length);
  }
}

void Image::read_ahead(std::uint64_t offset, std::size_t length) {
  std::uint64_t from = 0;
  std::uint64_t until = 0;
  {
    auto sequence = sequence_.lock();
    const bool follows = offset >= sequence->next && offset < sequence->next + kChunkSize;
    sequence->next = offset + length;
    const std::uint64_t here = (offset + length + kChunkSize - 1) / kChunkSize;
    if (!follows) {
      sequence->window = 0;
      // One large read still spans chunks that can be fetched side by side.
      if (length <= kChunkSize) return;
      from = offset / kChunkSize + 1;
      until = here;
      sequence->ahead = until;
    } else {
      if (sequence->ahead < here) sequence->ahead = offset / kChunkSize + 1;
      // Asked again only when half of the window is used up, so that the threads get work in runs.
      if (sequence->window != 0 && sequence->ahead > here + sequence->window / 2) return;
      sequence->window = std::clamp(sequence->window * 2, kFirstWindow, kMaxWindow);
      from = sequence->ahead;
      until = std::min(here + sequence->window, chunk_count(size_));
      sequence->ahead = std::max(sequence->ahead, until);
    }
  }
  for (std::uint64_t chunk = from; chunk < until; ++chunk) {
    reader_->prefetch([weak = weak_from_this(), chunk] {
      const auto image = weak.lock();
      if (!image) return;
      try {
        const ChunkRef ref = image->reference(chunk, Priority::kReadahead);
        if (!ref.is_zero()) image->reader_->read_chunk(ref, Priority::kReadahead);
      } catch (const Error&) {
        // The guest's own read meets the same failure and reports it.
      }
    });
  }
}

void Image::write(std::uint64_t offset, ByteView data) {
  if (!overlay_) throw Error(ErrorKind::kDenied, fmt::format("{} is read-only", name_));
  if (offset > size_ || data.size() > size_ - offset) {
    throw Error(ErrorKind::kUsage, fmt::format("a write beyond the end of {}", name_));
  }
  const std::size_t grain = overlay_->granularity();
  if (offset % grain == 0 && data.size() % grain == 0) {
    overlay_->write(offset, data);
  } else {
    write_block_edges(offset, data);
  }
  ++counters_.writes;
  counters_.written_bytes += data.size();
}

void Image::write_block_edges(std::uint64_t offset, ByteView data) {
  const std::size_t grain = overlay_->granularity();
  const std::uint64_t first = offset / grain * grain;
  const std::uint64_t end = (offset + data.size() + grain - 1) / grain * grain;
  const std::lock_guard lock(edge_mutex_);
  Bytes blocks(end - first);
  for (const Extent& gap : overlay_->read(first, blocks)) {
    read_below(gap.offset, MutableBytes(blocks).subspan(gap.offset - first, gap.length));
  }
  std::copy(data.begin(), data.end(), blocks.begin() + static_cast<std::ptrdiff_t>(offset - first));
  overlay_->write(first, blocks);
}

void Image::discard(std::uint64_t offset, std::uint64_t length) {
  if (!overlay_) throw Error(ErrorKind::kDenied, fmt::format("{} is read-only", name_));
  if (offset >= size_) return;
  length = std::min(length, size_ - offset);
  const std::size_t grain = overlay_->granularity();
  const std::uint64_t first = std::min((offset + grain - 1) / grain * grain, offset + length);
  const std::uint64_t end = std::max((offset + length) / grain * grain, first);
  if (first > offset) write(offset, Bytes(first - offset));
  if (end > first) overlay_->zero(first, end - first);
  if (offset + length > end) write(end, Bytes(offset + length - end));
}

void Image::flush() {
  if (overlay_) overlay_->flush();
  ++counters_.flushes;
}

}  // namespace isr
