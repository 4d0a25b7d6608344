// Which chunks a layer changes, and settling: sealed chunks take the place of
// bytes, and what is left of an old segment moves behind the rest.
//
// Moving is safe at every crash. A moved run of bytes or zeros says again what is
// visible there, under the mutex, so that nothing newer can be hidden. A moved
// replacement says below which sequence number it hides, so that replaying it
// behind newer bytes leaves them alone.

#include <algorithm>
#include <deque>

#include "base/error.h"
#include "image/journal_overlay.h"
#include "image/journal_segment.h"

namespace isr {
namespace {

constexpr std::size_t kMovedAtOnce = 64;  // bounds how long readers wait

bool same_place(const PieceAt& a, const PieceAt& b) {
  return a.offset == b.offset && a.piece.length == b.piece.length && a.piece.skip == b.piece.skip &&
         a.piece.place.sequence == b.piece.place.sequence;
}

Bytes encode_replacement(const ChunkRef& ref, std::uint64_t hides_below) {
  ByteWriter out;
  write_ref(ref, out);
  return out.u64(hides_below).take();
}

/// Runs of chunks that are all zero, from runs of zero bytes in order; the chunks
/// that a run covers only in part go to `parts`.
class ZeroRuns {
 public:
  explicit ZeroRuns(DirtyChunks& out) : out_(out) {}
  ~ZeroRuns() { end_run(); }
  ZeroRuns(const ZeroRuns&) = delete;
  ZeroRuns& operator=(const ZeroRuns&) = delete;

  void add(std::uint64_t offset, std::uint64_t length) {
    if (run_.length == 0 || run_.end() != offset) {
      end_run();
      run_ = {offset, 0};
    }
    run_.length += length;
  }

 private:
  void end_run() {
    if (run_.length == 0) return;
    const std::uint64_t first = (run_.offset + kChunkSize - 1) / kChunkSize;
    const std::uint64_t end = run_.end() / kChunkSize;
    if (run_.offset % kChunkSize != 0) out_.chunks.insert(run_.offset / kChunkSize);
    if (run_.end() % kChunkSize != 0) out_.chunks.insert(run_.end() / kChunkSize);
    if (first < end) out_.zeros.push_back({first, end - first});
    run_ = {};
  }

  DirtyChunks& out_;
  Extent run_;
};

bool contains(const std::vector<ChunkRun>& runs, std::uint64_t chunk) {
  const auto after = std::upper_bound(runs.begin(), runs.end(), chunk,
                                      [](std::uint64_t c, const ChunkRun& run) { return c < run.first; });
  return after != runs.begin() && chunk < std::prev(after)->end();
}

}  // namespace

DirtyChunks JournalOverlay::changes_of(const Layer& layer) {
  DirtyChunks changes;
  {
    ZeroRuns zeros(changes);
    for (const auto& [offset, piece] : layer.extents.all()) {
      if (piece.is_zero) {
        zeros.add(offset, piece.length);
      } else {
        changes.chunks.insert(changes.chunks.end(), offset / kChunkSize);
      }
    }
  }
  for (const auto& [chunk, replacement] : layer.replaced) {
    if (!contains(changes.zeros, chunk)) changes.chunks.insert(chunk);
  }
  return changes;
}

DirtyChunks JournalOverlay::frozen_chunks() const {
  const std::lock_guard lock(mutex_);
  if (!frozen_) throw Error(ErrorKind::kBug, "no snapshot is going on");
  return changes_of(*frozen_);
}

std::set<std::uint64_t> JournalOverlay::dirty_chunks() const {
  const std::lock_guard lock(mutex_);
  std::set<std::uint64_t> chunks = changes_of(active_).chunks;
  if (frozen_) chunks.merge(changes_of(*frozen_).chunks);
  return chunks;
}

std::vector<std::uint64_t> JournalOverlay::chunks_with_bytes(const SegmentPtr& segment) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint64_t> chunks;
  for (const auto& [offset, piece] : active_.extents.all()) {
    if (piece.is_zero || (segment && piece.place.segment != segment)) continue;
    const std::uint64_t chunk = offset / kChunkSize;
    if (chunks.empty() || chunks.back() != chunk) chunks.push_back(chunk);
  }
  return chunks;
}

std::vector<PieceAt> JournalOverlay::pieces_of(std::uint64_t chunk) const {
  const std::lock_guard lock(mutex_);
  return active_.extents.find(chunk * kChunkSize, kChunkSize);
}

void JournalOverlay::append_replacement(std::uint64_t chunk, const ChunkRef& ref) {
  const Bytes payload = encode_replacement(ref, 0);
  const Journal::Entry entry{RecordKind::kReplace, image_, chunk * kChunkSize, payload};
  const auto places = journal_->append({&entry, 1});
  cover(active_, chunk, {ref, places[0], places[0].sequence});
}

bool JournalOverlay::replace_chunk(std::uint64_t chunk, const ChunkRef& ref, const std::vector<PieceAt>& seen) {
  const std::lock_guard lock(mutex_);
  if (frozen_ || seen.empty()) return false;
  const auto now = active_.extents.find(chunk * kChunkSize, kChunkSize);
  if (!std::equal(now.begin(), now.end(), seen.begin(), seen.end(), same_place)) return false;
  append_replacement(chunk, ref);
  return true;
}

void JournalOverlay::set_chunk(std::uint64_t chunk, const ChunkRef& ref) {
  const std::lock_guard lock(mutex_);
  append_replacement(chunk, ref);
}

std::uint64_t JournalOverlay::live_bytes(const SegmentPtr& segment) const {
  const std::lock_guard lock(mutex_);
  std::uint64_t bytes = 0;
  for (const auto& [chunk, replacement] : active_.replaced) {
    if (replacement.place.segment == segment) bytes += record_size(replacement.place.length);
  }
  for (const auto& [offset, piece] : active_.extents.all()) {
    if (piece.place.segment == segment) bytes += record_size(piece.is_zero ? piece.place.length : piece.length);
  }
  return bytes;
}

void JournalOverlay::move_records(const SegmentPtr& segment) {
  move_replacements(segment);
  move_pieces(segment);
}

void JournalOverlay::move_replacements(const SegmentPtr& segment) {
  std::uint64_t next = 0;
  for (bool more = true; more;) {
    const std::lock_guard lock(mutex_);
    if (frozen_) return;
    std::vector<Replacement*> moved;
    std::deque<Bytes> payloads;
    std::vector<Journal::Entry> entries;
    auto it = active_.replaced.lower_bound(next);
    for (; it != active_.replaced.end() && moved.size() < kMovedAtOnce; ++it) {
      auto& [chunk, replacement] = *it;
      next = chunk + 1;
      if (replacement.place.segment != segment) continue;
      payloads.push_back(encode_replacement(replacement.ref, replacement.hides_below));
      entries.push_back({RecordKind::kReplace, image_, chunk * kChunkSize, payloads.back()});
      moved.push_back(&replacement);
    }
    more = it != active_.replaced.end();
    const auto places = journal_->append(entries);
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i]->place = places[i];
  }
}

void JournalOverlay::move_pieces(const SegmentPtr& segment) {
  std::vector<Extent> runs;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [offset, piece] : active_.extents.all()) {
      if (piece.place.segment == segment) runs.push_back({offset, piece.length});
    }
  }
  for (std::span<const Extent> rest = runs; !rest.empty();) {
    const auto some = rest.first(std::min(rest.size(), kMovedAtOnce));
    if (!move_some(some, segment)) return;
    rest = rest.subspan(some.size());
  }
}

/// False: a snapshot is going on. What was cut or covered since is left out.
bool JournalOverlay::move_some(std::span<const Extent> runs, const SegmentPtr& segment) {
  const std::lock_guard lock(mutex_);
  if (frozen_) return false;
  std::vector<PieceAt> moved;
  std::deque<Bytes> payloads;
  std::vector<Journal::Entry> entries;
  for (const Extent& run : runs) {
    for (PieceAt& found : active_.extents.find(run.offset, run.length)) {
      const Piece& piece = found.piece;
      if (piece.place.segment != segment) continue;
      if (piece.is_zero) {
        payloads.push_back(ByteWriter().u64(piece.length).take());
        entries.push_back({RecordKind::kZero, image_, found.offset, payloads.back()});
      } else {
        payloads.emplace_back(piece.place.length);
        journal_->read(piece.place, payloads.back());
        const ByteView visible = ByteView(payloads.back()).subspan(piece.skip, piece.length);
        entries.push_back({RecordKind::kData, image_, found.offset, visible});
      }
      moved.push_back(std::move(found));
    }
  }
  const auto places = journal_->append(entries);
  for (std::size_t i = 0; i < moved.size(); ++i) {
    active_.extents.insert(moved[i].offset, {moved[i].piece.length, 0, moved[i].piece.is_zero, places[i]});
  }
  return true;
}

}  // namespace isr
