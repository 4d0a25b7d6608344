// Everything that changes the maps happens with the mutex held across the
// journal's append, so that the order of the records is the order of the maps and
// freeze() cuts both at one place. Reading collects places under the mutex and
// decrypts without it: the places keep their segments.

#include "image/journal_overlay.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

Bytes encode_length(std::uint64_t length) { return ByteWriter().u64(length).take(); }

Bytes encode_ref(const ChunkRef& ref) {
  ByteWriter out;
  write_ref(ref, out);
  return out.take();
}

bool same_place(const PieceAt& a, const PieceAt& b) {
  return a.offset == b.offset && a.piece.length == b.piece.length && a.piece.skip == b.piece.skip &&
         a.piece.place.segment == b.piece.place.segment && a.piece.place.number == b.piece.place.number;
}

constexpr std::uint64_t kLongestZeroPiece = 1U << 30U;  // a piece's length has 32 bits

}  // namespace

JournalOverlay::JournalOverlay(std::shared_ptr<Journal> journal, std::uint16_t image)
    : journal_(std::move(journal)), image_(image) {}

void JournalOverlay::write(std::uint64_t offset, ByteView data) {
  std::vector<Journal::Entry> entries;
  for (std::size_t done = 0; done < data.size();) {
    // Cut at chunk ends, so that a record belongs to one chunk.
    const std::size_t length = std::min(data.size() - done, kChunkSize - (offset + done) % kChunkSize);
    entries.push_back({RecordKind::kData, image_, offset + done, data.subspan(done, length)});
    done += length;
  }
  const std::lock_guard lock(mutex_);
  const auto places = journal_->append(entries);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    active_.extents.insert(entries[i].offset,
                           {static_cast<std::uint32_t>(entries[i].payload.size()), 0, false, places[i]});
  }
}

void JournalOverlay::append_zero(std::uint64_t offset, std::uint64_t length) {
  const Bytes payload = encode_length(length);
  const Journal::Entry entry{RecordKind::kZero, image_, offset, payload};
  const auto places = journal_->append({&entry, 1});
  active_.extents.insert(offset, {static_cast<std::uint32_t>(length), 0, true, places[0]});
}

void JournalOverlay::append_replacement(std::uint64_t chunk, const ChunkRef& ref) {
  const Bytes payload = encode_ref(ref);
  const Journal::Entry entry{RecordKind::kReplace, image_, chunk * kChunkSize, payload};
  const auto places = journal_->append({&entry, 1});
  cover(active_, chunk, {ref, places[0]});
}

void JournalOverlay::cover(Layer& layer, std::uint64_t chunk, const Replacement& replacement) {
  layer.extents.erase(chunk * kChunkSize, kChunkSize);
  layer.replaced[chunk] = replacement;
}

void JournalOverlay::zero(std::uint64_t offset, std::uint64_t length) {
  const std::lock_guard lock(mutex_);
  while (length > 0) {
    const std::uint64_t step = std::min(length, kLongestZeroPiece);
    append_zero(offset, step);
    offset += step;
    length -= step;
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
    for (const Extent& gap : open) {
      if (!frozen_) {
        gaps.push_back(gap);
        continue;
      }
      // Chunk by chunk: one that was replaced since the snapshot hides what is frozen below.
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
  const std::lock_guard lock(mutex_);
  ByteReader payload(record.payload, "journal record");
  switch (record.kind) {
    case RecordKind::kData:
      active_.extents.insert(record.offset,
                             {static_cast<std::uint32_t>(record.payload.size()), 0, false, record.place});
      break;
    case RecordKind::kZero:
      active_.extents.insert(record.offset, {static_cast<std::uint32_t>(payload.u64()), 0, true, record.place});
      break;
    case RecordKind::kReplace:
      cover(active_, record.offset / kChunkSize, {read_ref(payload), record.place});
      break;
    case RecordKind::kMark:
      break;
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
  if (!frozen_) return;
  Layer merged = std::move(*frozen_);
  for (const auto& [chunk, replacement] : active_.replaced) cover(merged, chunk, replacement);
  for (const auto& [offset, piece] : active_.extents.all()) merged.extents.insert(offset, piece);
  active_ = std::move(merged);
  frozen_.reset();
}

void JournalOverlay::drop_frozen() {
  const std::lock_guard lock(mutex_);
  frozen_.reset();
}

bool JournalOverlay::is_frozen() const {
  const std::lock_guard lock(mutex_);
  return frozen_.has_value();
}

void JournalOverlay::add_chunks(const Layer& layer, std::set<std::uint64_t>& out) {
  for (const auto& [chunk, replacement] : layer.replaced) out.insert(chunk);
  for (const auto& [offset, piece] : layer.extents.all()) {
    for (std::uint64_t chunk = offset / kChunkSize; chunk * kChunkSize < offset + piece.length; ++chunk) {
      out.insert(chunk);
    }
  }
}

std::set<std::uint64_t> JournalOverlay::frozen_chunks() const {
  const std::lock_guard lock(mutex_);
  std::set<std::uint64_t> chunks;
  if (frozen_) add_chunks(*frozen_, chunks);
  return chunks;
}

std::set<std::uint64_t> JournalOverlay::dirty_chunks() const {
  const std::lock_guard lock(mutex_);
  std::set<std::uint64_t> chunks;
  if (frozen_) add_chunks(*frozen_, chunks);
  add_chunks(active_, chunks);
  return chunks;
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
    if (!frozen_) throw Error(ErrorKind::kBug, "no snapshot is going on");
    collect(*frozen_, {offset, out.size()}, pieces, gaps);
  }
  return fill(offset, out, pieces, std::move(gaps));
}

std::optional<ChunkRef> JournalOverlay::frozen_replaced(std::uint64_t chunk) const {
  const std::lock_guard lock(mutex_);
  const auto it = frozen_->replaced.find(chunk);
  return it == frozen_->replaced.end() ? std::nullopt : std::optional(it->second.ref);
}

bool JournalOverlay::frozen_has_bytes(std::uint64_t chunk) const {
  const std::lock_guard lock(mutex_);
  return !frozen_->extents.find(chunk * kChunkSize, kChunkSize).empty();
}

std::set<std::uint64_t> JournalOverlay::chunks_with_bytes(const SegmentPtr& segment) const {
  const std::lock_guard lock(mutex_);
  std::set<std::uint64_t> chunks;
  for (const auto& [offset, piece] : active_.extents.all()) {
    if (piece.is_zero || (segment && piece.place.segment != segment)) continue;
    chunks.insert(offset / kChunkSize);
  }
  return chunks;
}

std::vector<PieceAt> JournalOverlay::pieces_of(std::uint64_t chunk) const {
  const std::lock_guard lock(mutex_);
  return active_.extents.find(chunk * kChunkSize, kChunkSize);
}

bool JournalOverlay::replace_chunk(std::uint64_t chunk, const ChunkRef& ref, const std::vector<PieceAt>& seen) {
  const std::lock_guard lock(mutex_);
  if (frozen_) return false;
  const auto now = active_.extents.find(chunk * kChunkSize, kChunkSize);
  if (!std::equal(now.begin(), now.end(), seen.begin(), seen.end(), same_place)) return false;
  append_replacement(chunk, ref);
  return true;
}

void JournalOverlay::set_chunk(std::uint64_t chunk, const ChunkRef& ref) {
  const std::lock_guard lock(mutex_);
  append_replacement(chunk, ref);
}

void JournalOverlay::rewrite_records(const SegmentPtr& segment) {
  const std::lock_guard lock(mutex_);
  if (frozen_) return;
  std::vector<std::pair<std::uint64_t, ChunkRef>> replacements;
  for (const auto& [chunk, replacement] : active_.replaced) {
    if (replacement.place.segment == segment) replacements.emplace_back(chunk, replacement.ref);
  }
  std::vector<Extent> zeros;
  for (const auto& [offset, piece] : active_.extents.all()) {
    if (piece.is_zero && piece.place.segment == segment) zeros.push_back({offset, piece.length});
  }
  for (const auto& [chunk, ref] : replacements) {
    // Pieces over a replacement stay over it: only the record moves, and a replayed
    // replacement would hide them, so they are written again behind it.
    const auto over = active_.extents.find(chunk * kChunkSize, kChunkSize);
    append_replacement(chunk, ref);
    for (const PieceAt& kept : over) {
      if (kept.piece.is_zero) {
        append_zero(kept.offset, kept.piece.length);
        continue;
      }
      Bytes record(kept.piece.place.length);
      journal_->read(kept.piece.place, record);
      const ByteView part = ByteView(record).subspan(kept.piece.skip, kept.piece.length);
      const Journal::Entry entry{RecordKind::kData, image_, kept.offset, part};
      const auto places = journal_->append({&entry, 1});
      active_.extents.insert(kept.offset, {kept.piece.length, 0, false, places[0]});
    }
  }
  for (const Extent& range : zeros) {
    for (const PieceAt& piece : active_.extents.find(range.offset, range.length)) {
      if (piece.piece.is_zero && piece.piece.place.segment == segment) append_zero(piece.offset, piece.piece.length);
    }
  }
}

std::uint64_t JournalOverlay::clear() {
  const std::lock_guard lock(mutex_);
  active_ = {};
  frozen_.reset();
  return journal_->next_sequence();
}

}  // namespace isr
