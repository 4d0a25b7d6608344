// Every change of the maps happens with the mutex held across the journal's append. So moments and maps have the same
// order, and freeze() cuts both at one place. Reading collects places under the mutex and decrypts without it; the
// places keep their segments.

#include "image/journal_overlay.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::uint64_t kLongestZeroPiece = 1U << 30U;  // a piece's length has 32 bits
constexpr std::size_t kLongestDataPiece = 32768;        // reading 4 KiB of a record decrypts all of it
constexpr std::size_t kLongestAppend = 1U << 20U;       // bounds the buffers, and the time that readers wait

[[noreturn]] void refuse(const ReplayedRecord& record) {
  throw Error(ErrorKind::kCorrupt, fmt::format("record {} of the journal makes no sense", record.place.sequence));
}

bool is_within(std::uint64_t offset, std::uint64_t length, std::uint64_t limit) {
  return offset <= limit && length <= limit - offset;
}

}  // namespace

JournalOverlay::JournalOverlay(std::shared_ptr<Journal> journal, std::uint16_t image)
    : journal_(std::move(journal)), image_(image) {}

void JournalOverlay::write(std::uint64_t offset, ByteView data) {
  std::vector<Journal::Entry> entries;
  while (!data.empty()) {
    entries.clear();
    for (std::size_t total = 0; !data.empty() && total < kLongestAppend;) {
      // Cut at the ends of chunks, so that a record belongs to one chunk.
      const std::size_t to_chunk_end = kChunkSize - offset % kChunkSize;
      const std::size_t length = std::min({data.size(), to_chunk_end, kLongestDataPiece});
      entries.push_back({RecordKind::kData, image_, offset, data.first(length)});
      offset += length;
      total += length;
      data = data.subspan(length);
    }
    const std::lock_guard lock(mutex_);
    const auto places = journal_->append(entries);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      active_.extents.insert(entries[i].offset, {static_cast<std::uint32_t>(entries[i].payload.size()), 0, false,
                                                 places[i], places[i].sequence});
    }
  }
}

void JournalOverlay::zero(std::uint64_t offset, std::uint64_t length) {
  std::vector<Bytes> lengths;
  for (std::uint64_t rest = length; rest > 0; rest -= std::min(rest, kLongestZeroPiece)) {
    lengths.push_back(ByteWriter().u64(std::min(rest, kLongestZeroPiece)).take());
  }
  std::vector<Journal::Entry> entries;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    entries.push_back({RecordKind::kZero, image_, offset + i * kLongestZeroPiece, lengths[i]});
  }
  const std::lock_guard lock(mutex_);
  const auto places = journal_->append(entries);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::uint64_t piece = std::min(length - i * kLongestZeroPiece, kLongestZeroPiece);
    active_.extents.insert(entries[i].offset,
                           {static_cast<std::uint32_t>(piece), 0, true, places[i], places[i].sequence});
  }
}

void JournalOverlay::cover(Layer& layer, std::uint64_t chunk, const Replacement& replacement) {
  const auto [at, is_first] = layer.replaced.try_emplace(chunk, replacement);
  if (!is_first) {
    if (at->second.moment > replacement.moment) return;
    if (at->second.ref != replacement.ref) ++superseded_;
    at->second = replacement;
  }
  for (const PieceAt& over : layer.extents.find(chunk * kChunkSize, kChunkSize)) {
    if (over.piece.moment <= replacement.moment) layer.extents.erase(over.offset, over.piece.length);
  }
}

void JournalOverlay::collect(const Layer& layer, const Extent& range, std::vector<PieceAt>& pieces,
                             std::vector<Extent>& gaps) {
  std::uint64_t at = range.offset;
  for (PieceAt& found : layer.extents.find(range.offset, range.length)) {
    if (found.offset > at) gaps.push_back({at, found.offset - at});
    at = found.offset + found.piece.length;
    pieces.push_back(std::move(found));
  }
  if (at < range.end()) gaps.push_back({at, range.end() - at});
}

std::vector<Extent> JournalOverlay::fill(std::uint64_t offset, MutableBytes out, const std::vector<PieceAt>& pieces,
                                         std::vector<Extent> gaps) {
  thread_local Bytes record;
  for (const PieceAt& found : pieces) {
    const MutableBytes part = out.subspan(found.offset - offset, found.piece.length);
    if (found.piece.is_zero) {
      std::fill(part.begin(), part.end(), std::uint8_t{0});
    } else if (found.piece.length == found.piece.place.length) {
      journal_->read(found.piece.place, part);
    } else {
      record.resize(found.piece.place.length);
      journal_->read(found.piece.place, record);
      std::copy_n(record.begin() + found.piece.skip, part.size(), part.begin());
    }
  }
  return gaps;
}

std::vector<Extent> JournalOverlay::read(std::uint64_t offset, MutableBytes out) {
  std::vector<PieceAt> pieces;
  std::vector<Extent> gaps;
  {
    const std::lock_guard lock(mutex_);
    std::vector<Extent> open;
    collect(active_, {offset, out.size()}, pieces, open);
    if (!frozen_) gaps.swap(open);
    for (const Extent& gap : open) {
      // One chunk at a time, because a chunk that was replaced after the snapshot hides the frozen layer below it.
      for (std::uint64_t at = gap.offset; at < gap.end();) {
        const std::uint64_t chunk = at / kChunkSize;
        const std::uint64_t end = std::min(gap.end(), (chunk + 1) * kChunkSize);
        if (active_.replaced.contains(chunk)) {
          gaps.push_back({at, end - at});
        } else {
          collect(*frozen_, {at, end - at}, pieces, gaps);
        }
        at = end;
      }
    }
  }
  return fill(offset, out, pieces, std::move(gaps));
}

std::optional<ChunkRef> JournalOverlay::replaced(std::uint64_t chunk) {
  const std::lock_guard lock(mutex_);
  if (const auto it = active_.replaced.find(chunk); it != active_.replaced.end()) return it->second.ref;
  if (frozen_) {
    if (const auto it = frozen_->replaced.find(chunk); it != frozen_->replaced.end()) return it->second.ref;
  }
  return std::nullopt;
}

void JournalOverlay::flush() { journal_->sync(); }

void JournalOverlay::replay(const ReplayedRecord& record) {
  // The record is authenticated, so if it makes no sense, isr or an owner of the key wrote it so.
  const std::lock_guard lock(mutex_);
  ByteReader payload(record.payload, "journal record");
  switch (record.kind) {
    case RecordKind::kData: {
      const std::uint32_t length = record.place.length;
      if (length == 0 || length > kChunkSize - record.offset % kChunkSize ||
          !is_within(record.offset, length, kMaxImageSize)) {
        refuse(record);
      }
      active_.extents.insert(record.offset, {length, 0, false, record.place, record.moment});
      break;
    }
    case RecordKind::kZero: {
      const std::uint64_t length = payload.u64();
      payload.expect_end();
      if (length == 0 || length > kLongestZeroPiece || !is_within(record.offset, length, kMaxImageSize)) refuse(record);
      active_.extents.insert(record.offset, {static_cast<std::uint32_t>(length), 0, true, record.place, record.moment});
      break;
    }
    case RecordKind::kReplace: {
      const Replacement replacement{read_ref(payload), record.place, record.moment};
      payload.expect_end();
      if (record.offset % kChunkSize != 0 || record.offset >= kMaxImageSize) refuse(record);
      cover(active_, record.offset / kChunkSize, replacement);
      break;
    }
  }
}

std::uint64_t JournalOverlay::freeze() {
  const std::lock_guard lock(mutex_);
  if (frozen_) throw Error(ErrorKind::kBug, "an image is frozen already");
  frozen_ = std::move(active_);
  active_ = {};
  return journal_->next_sequence();
}

void JournalOverlay::thaw() {
  const std::lock_guard lock(mutex_);
  thaw_locked();
}

void JournalOverlay::thaw_locked() {
  if (!frozen_) return;
  Layer merged = std::move(*frozen_);
  for (const auto& [chunk, replacement] : active_.replaced) cover(merged, chunk, replacement);
  for (const auto& [offset, piece] : active_.extents.all()) merged.extents.insert(offset, piece);
  active_ = std::move(merged);
  frozen_.reset();
}

bool JournalOverlay::is_dirty() const {
  const std::lock_guard lock(mutex_);
  return !active_.empty() || (frozen_ && !frozen_->empty());
}

std::vector<Extent> JournalOverlay::read_frozen(std::uint64_t offset, MutableBytes out) {
  std::vector<PieceAt> pieces;
  std::vector<Extent> gaps;
  {
    const std::lock_guard lock(mutex_);
    if (!frozen_) throw Error(ErrorKind::kBug, "no snapshot is under way");
    collect(*frozen_, {offset, out.size()}, pieces, gaps);
  }
  return fill(offset, out, pieces, std::move(gaps));
}

std::optional<ChunkRef> JournalOverlay::frozen_replaced(std::uint64_t chunk) const {
  const std::lock_guard lock(mutex_);
  if (!frozen_) throw Error(ErrorKind::kBug, "no snapshot is under way");
  const auto it = frozen_->replaced.find(chunk);
  return it == frozen_->replaced.end() ? std::nullopt : std::optional(it->second.ref);
}

bool JournalOverlay::frozen_has_bytes(std::uint64_t chunk) const {
  const std::lock_guard lock(mutex_);
  if (!frozen_) throw Error(ErrorKind::kBug, "no snapshot is under way");
  return !frozen_->extents.find(chunk * kChunkSize, kChunkSize).empty();
}

void JournalOverlay::forget_below(std::uint64_t moment) {
  const std::lock_guard lock(mutex_);
  for_each_layer([&](Layer& layer) {
    layer.extents.erase_below(moment);
    std::erase_if(layer.replaced, [&](const auto& at) { return at.second.moment < moment; });
  });
}

}  // namespace isr
