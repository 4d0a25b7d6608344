// Finds the chunks that a layer changes, and settles: sealed chunks replace bytes, and the remaining records of a
// segment move to the end of the journal.
//
// Moving is safe at every crash, and while a layer is frozen: a moved record keeps its moment, so it means the same in
// its new place.

#include <algorithm>
#include <deque>

#include "base/error.h"
#include "image/journal_overlay.h"
#include "image/journal_segment.h"

namespace isr {
namespace {

constexpr std::size_t kMovedAtOnce = 64;  // bounds the time that readers wait

bool same_piece(const PieceAt& a, const PieceAt& b) {
  return a.offset == b.offset && a.piece.length == b.piece.length && a.piece.moment == b.piece.moment;
}

Bytes encode_replacement(const ChunkRef& ref) {
  ByteWriter out;
  write_ref(ref, out);
  return out.take();
}

/// Calls `body` with a part of the items at a time.
template <class T, class Body>
void in_batches(std::span<const T> rest, Body body) {
  while (!rest.empty()) {
    const auto some = rest.first(std::min(rest.size(), kMovedAtOnce));
    body(some);
    rest = rest.subspan(some.size());
  }
}

/// Finds runs of chunks that are all zero from sorted runs of zero bytes. Chunks that are only partly covered go to
/// `parts`.
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
  if (!frozen_) throw Error(ErrorKind::kBug, "no snapshot is under way");
  return changes_of(*frozen_);
}

std::set<std::uint64_t> JournalOverlay::dirty_chunks() const {
  const std::lock_guard lock(mutex_);
  std::set<std::uint64_t> chunks;
  for_each_layer([&](const Layer& layer) { chunks.merge(changes_of(layer).chunks); });
  return chunks;
}

void JournalOverlay::add_objects(std::set<Cid>& objects) const {
  const std::lock_guard lock(mutex_);
  for_each_layer([&](const Layer& layer) {
    for (const auto& [chunk, replacement] : layer.replaced) objects.insert(replacement.ref.cid);
  });
}

std::uint64_t JournalOverlay::superseded() const {
  const std::lock_guard lock(mutex_);
  return superseded_;
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
  const Bytes payload = encode_replacement(ref);
  const Journal::Entry entry{RecordKind::kReplace, image_, chunk * kChunkSize, payload};
  const auto places = journal_->append({&entry, 1});
  cover(active_, chunk, {ref, places[0], places[0].sequence});
}

bool JournalOverlay::replace_chunk(std::uint64_t chunk, const ChunkRef& ref, const std::vector<PieceAt>& seen) {
  const std::lock_guard lock(mutex_);
  if (seen.empty()) return false;
  const auto now = active_.extents.find(chunk * kChunkSize, kChunkSize);
  if (!std::equal(now.begin(), now.end(), seen.begin(), seen.end(), same_piece)) return false;
  append_replacement(chunk, ref);
  return true;
}

void JournalOverlay::set_chunk(std::uint64_t chunk, const ChunkRef& ref) {
  const std::lock_guard lock(mutex_);
  append_replacement(chunk, ref);
}

void JournalOverlay::absorb_frozen(std::span<const SealedChunk> sealed, std::uint64_t below) {
  in_batches(sealed, [&](std::span<const SealedChunk> some) { absorb_some(some, below - 1); });
  thaw();
}

void JournalOverlay::absorb_some(std::span<const SealedChunk> sealed, std::uint64_t moment) {
  const std::lock_guard lock(mutex_);
  if (!frozen_) throw Error(ErrorKind::kBug, "no snapshot is under way");
  std::vector<const SealedChunk*> absorbed;
  std::deque<Bytes> payloads;
  std::vector<Journal::Entry> entries;
  for (const SealedChunk& one : sealed) {
    if (active_.replaced.contains(one.chunk)) continue;  // no frozen data of it is visible any more
    const auto before = frozen_->replaced.find(one.chunk);
    const bool is_known = before != frozen_->replaced.end() && before->second.ref == one.ref;
    if (is_known && frozen_->extents.find(one.chunk * kChunkSize, kChunkSize).empty()) continue;
    payloads.push_back(encode_replacement(one.ref));
    entries.push_back({RecordKind::kReplace, image_, one.chunk * kChunkSize, payloads.back(), moment});
    absorbed.push_back(&one);
  }
  const auto places = journal_->append(entries);
  for (std::size_t i = 0; i < absorbed.size(); ++i) {
    cover(*frozen_, absorbed[i]->chunk, {absorbed[i]->ref, places[i], moment});
  }
}

void JournalOverlay::add_live_bytes(std::map<SegmentPtr, std::uint64_t>& bytes) const {
  const std::lock_guard lock(mutex_);
  for_each_layer([&](const Layer& layer) {
    for (const auto& [chunk, replacement] : layer.replaced) {
      bytes[replacement.place.segment] += record_size(replacement.place.length);
    }
    for (const auto& [offset, piece] : layer.extents.all()) {
      bytes[piece.place.segment] += record_size(piece.is_zero ? piece.place.length : piece.length);
    }
  });
}

void JournalOverlay::move_records(const SegmentPtr& segment) {
  std::vector<std::uint64_t> chunks;
  std::vector<Extent> runs;
  {
    const std::lock_guard lock(mutex_);
    for_each_layer([&](const Layer& layer) {
      for (const auto& [chunk, replacement] : layer.replaced) {
        if (replacement.place.segment == segment) chunks.push_back(chunk);
      }
      for (const auto& [offset, piece] : layer.extents.all()) {
        if (piece.place.segment == segment) runs.push_back({offset, piece.length});
      }
    });
  }
  in_batches(std::span<const std::uint64_t>(chunks), [&](auto some) { move_replacements(some, segment); });
  in_batches(std::span<const Extent>(runs), [&](auto some) { move_pieces(some, segment); });
}

void JournalOverlay::move_replacements(std::span<const std::uint64_t> chunks, const SegmentPtr& segment) {
  const std::lock_guard lock(mutex_);
  std::vector<Replacement*> moved;
  std::deque<Bytes> payloads;
  std::vector<Journal::Entry> entries;
  for_each_layer([&](Layer& layer) {
    for (const std::uint64_t chunk : chunks) {
      const auto at = layer.replaced.find(chunk);
      if (at == layer.replaced.end() || at->second.place.segment != segment) continue;
      payloads.push_back(encode_replacement(at->second.ref));
      entries.push_back({RecordKind::kReplace, image_, chunk * kChunkSize, payloads.back(), at->second.moment});
      moved.push_back(&at->second);
    }
  });
  const auto places = journal_->append(entries);
  for (std::size_t i = 0; i < moved.size(); ++i) moved[i]->place = places[i];
}

/// Leaves out pieces that were cut or covered since.
void JournalOverlay::move_pieces(std::span<const Extent> runs, const SegmentPtr& segment) {
  struct Moved {
    Layer* layer;
    PieceAt at;
  };
  const std::lock_guard lock(mutex_);
  std::vector<Moved> moved;
  std::deque<Bytes> payloads;
  std::vector<Journal::Entry> entries;
  for_each_layer([&](Layer& layer) {
    for (const Extent& run : runs) {
      for (PieceAt& found : layer.extents.find(run.offset, run.length)) {
        const Piece& piece = found.piece;
        if (piece.place.segment != segment) continue;
        if (piece.is_zero) {
          payloads.push_back(ByteWriter().u64(piece.length).take());
          entries.push_back({RecordKind::kZero, image_, found.offset, payloads.back(), piece.moment});
        } else {
          payloads.emplace_back(piece.place.length);
          journal_->read(piece.place, payloads.back());
          const ByteView visible = ByteView(payloads.back()).subspan(piece.skip, piece.length);
          entries.push_back({RecordKind::kData, image_, found.offset, visible, piece.moment});
        }
        moved.push_back({&layer, std::move(found)});
      }
    }
  });
  const auto places = journal_->append(entries);
  for (std::size_t i = 0; i < moved.size(); ++i) {
    const auto& [offset, piece] = moved[i].at;
    moved[i].layer->extents.insert(offset, {piece.length, 0, piece.is_zero, places[i], piece.moment});
  }
}

}  // namespace isr
