// A read asks the overlay first. The rest comes from the chunk that replaces the tree's chunk, or from the base: from
// its patches, and where these have no bytes from the tree's own chunk. Prefetch threads decode the chunks for which
// read_ahead.h asks. They hold only the image's lower half, never the reader that owns the threads, so that no thread
// ever has to join itself.

#include "image/image.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::uint64_t kRoomOfARecord = 4096;

}  // namespace

std::vector<ChunkRef> Image::Below::references(std::uint64_t chunk, Priority priority,
                                               const std::stop_token& stop) const {
  // Overlay before base, because a publish sets the new base before the overlay drops the published changes.
  if (overlay) {
    if (const auto replaced = overlay->replaced(chunk)) return {*replaced};
  }
  const BasePtr now = *base.lock();  // not locked while pages are fetched
  return now->references(reader, chunk, priority, stop);
}

Image::Image(std::string name, std::shared_ptr<const BaseContent> base, std::shared_ptr<ChunkReader> reader,
             std::shared_ptr<Overlay> overlay)
    : name_(std::move(name)),
      size_(base->tree().size()),
      reader_(std::move(reader)),
      overlay_(std::move(overlay)),
      below_(std::make_shared<Below>(*reader_, overlay_, std::move(base))) {}

Image::Image(std::string name, const PatchedTree& base, std::shared_ptr<ChunkReader> reader,
             std::shared_ptr<Overlay> overlay)
    : Image(std::move(name), std::make_shared<const BaseContent>(base), std::move(reader), std::move(overlay)) {}

void Image::adopt(const PatchedTree& published, const std::function<void()>& forget) {
  set_hot_pages({});  // call before the data that lies over them is forgotten
  auto base = std::make_shared<const BaseContent>(published, *base_content());
  try {
    // Now, because the new patch is on this host now, and the cache may drop its table before a guest reads.
    base->index(*reader_, Priority::kImpatient);
  } catch (const Error&) {
    // A read asks again.
  }
  below_->base.lock()->swap(base);
  forget();
}

void Image::set_hot_pages(HotImage pages) { std::swap(*hot_.lock(), pages); }

void Image::set_touches(std::shared_ptr<FirstTouches> touches, std::uint8_t number) {
  *touches_.lock() = {std::move(touches), number};
}

void Image::note_touch(std::uint64_t offset, std::size_t length) {
  const Touches touches = *touches_.lock();
  if (touches.list) touches.list->note(touches.number, offset, length, std::chrono::steady_clock::now());
}

std::size_t Image::read(std::uint64_t offset, MutableBytes out) {
  if (offset >= size_) return 0;
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size_ - offset));
  out = out.first(length);
  note_touch(offset, length);
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

void Image::read_chunk_below(std::uint64_t chunk, std::size_t within, MutableBytes out, bool sequential) {
  for (;;) {
    // Overlay before base, as in Below::references().
    const auto replaced = overlay_ ? overlay_->replaced(chunk) : std::nullopt;
    const BasePtr base = *below_->base.lock();
    try {
      if (replaced) {
        read_reference(*reader_, *replaced, within, out, {.whole_chunks = sequential});
      } else {
        base->read(*reader_, chunk * kChunkSize + within, out, {.whole_chunks = sequential});
      }
      return;
    } catch (const Error& error) {
      // A chunk that was replaced or published meanwhile may be gone from its old place.
      if (error.kind() != ErrorKind::kCorrupt) throw;
      const bool is_as_before = (overlay_ ? overlay_->replaced(chunk) : std::nullopt) == replaced;
      if (is_as_before && *below_->base.lock() == base) throw;
    }
  }
}

/// Asks the overlay after the pack, because the pack is out of date for chunks that were replaced. Then checks that the
/// pack is still in use: a publish removes it before the overlay forgets the replaced chunks.
bool Image::read_hot(const HotImage& hot, std::uint64_t offset, MutableBytes out) {
  return hot.pages->read(hot.number, offset, out) && !(overlay_ && overlay_->replaced(offset / kChunkSize)) &&
         hot_.lock()->pages == hot.pages;
}

void Image::read_below(std::uint64_t offset, MutableBytes out) {
  // Read this after the overlay was asked: a publish drops the pack before changes that are in the new base leave the
  // overlay.
  const HotImage hot = *hot_.lock();
  if (!hot.pages) return read_tree(offset, out);
  std::size_t from = 0;  // the bytes from here to `at` are not hot
  for (std::size_t at = 0; at < out.size();) {
    const std::size_t length = std::min(kBootPageSize - (offset + at) % kBootPageSize, out.size() - at);
    if (read_hot(hot, offset + at, out.subspan(at, length))) {
      read_tree(offset + from, out.subspan(from, at - from));
      from = at + length;
      ++counters_.hot_pages;
    }
    at += length;
  }
  read_tree(offset + from, out.subspan(from));
}

void Image::read_tree(std::uint64_t offset, MutableBytes out) {
  if (out.empty()) return;
  const bool sequential = read_ahead(offset, out.size());
  while (!out.empty()) {
    const std::size_t within = offset % kChunkSize;
    const std::size_t length = std::min(out.size(), kChunkSize - within);
    read_chunk_below(offset / kChunkSize, within, out.first(length), sequential);
    offset += length;
    out = out.subspan(length);
  }
}

bool Image::read_ahead(std::uint64_t offset, std::size_t length) {
  const AheadRange ahead = read_ahead_.lock()->on_read(offset, length, chunk_count(size_), reader_->ahead_limit());
  for (std::uint64_t chunk = ahead.first; chunk < ahead.end; ++chunk) {
    reader_->prefetch([weak = std::weak_ptr<const Below>(below_), chunk] {
      const auto below = weak.lock();
      if (!below) return;
      try {
        for (const ChunkRef& ref : below->references(chunk, Priority::kReadahead)) {
          if (!ref.is_zero()) below->reader.read_chunk(ref, Priority::kReadahead);
        }
      } catch (const std::exception&) {
        // The guest's own read meets the same failure and reports it.
      }
    });
  }
  return ahead.sequential;
}

void Image::write(std::uint64_t offset, ByteView data) {
  if (!overlay_) throw Error(ErrorKind::kDenied, fmt::format("{} is read-only", name_));
  if (offset > size_ || data.size() > size_ - offset) {
    throw Error(ErrorKind::kUsage, fmt::format("a write beyond the end of {}", name_));
  }
  const std::size_t grain = overlay_->granularity();
  with_room(make_room_, data.size(), [&] {
    if (grain == 1) {
      overlay_->write(offset, data);
    } else if (offset % grain == 0 && data.size() % grain == 0) {
      const std::shared_lock lock(edge_mutex_);
      overlay_->write(offset, data);
    } else {
      write_block_edges(offset, data);
    }
  });
  ++counters_.writes;
  counters_.written_bytes += data.size();
}

void Image::write_block_edges(std::uint64_t offset, ByteView data) {
  const std::size_t grain = overlay_->granularity();
  const std::uint64_t first = offset / grain * grain;
  const std::uint64_t end = (offset + data.size() + grain - 1) / grain * grain;
  Bytes blocks(end - first);
  const auto read_blocks = [&] {
    for (const Extent& gap : overlay_->read(first, blocks)) {
      read_below(gap.offset, MutableBytes(blocks).subspan(gap.offset - first, gap.length));
    }
  };
  read_blocks();  // fetches the data first, so that the mutex is not held across a fetch
  const std::unique_lock lock(edge_mutex_);
  read_blocks();
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
  if (end > first) {
    with_room(make_room_, kRoomOfARecord, [&] {
      const std::shared_lock lock(edge_mutex_);
      overlay_->zero(first, end - first);
    });
  }
  if (offset + length > end) write(end, Bytes(offset + length - end));
  counters_.discarded_bytes += length;
}

void Image::flush() {
  if (overlay_) overlay_->flush();
  ++counters_.flushes;
}

}  // namespace isr
