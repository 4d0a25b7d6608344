#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/crypto.h"
#include "base/handle.h"

namespace isr {

/// One append-only file of a journal; docs/formats/journal.md.
class JournalSegment;
/// Whoever holds one keeps the segment's file; what nobody holds is deleted by Journal::collect().
using SegmentPtr = std::shared_ptr<const JournalSegment>;

enum class RecordKind : std::uint8_t {
  kData = 1,  ///< payload: bytes at offset
  kZero = 2,  ///< payload: length u64 of zeros at offset
  /// payload: the reference of the chunk at offset
  kReplace = 3,
};
inline constexpr std::uint8_t kLastRecordKind = 3;

/// Where a record lies.
struct RecordPlace {
  SegmentPtr segment;
  std::uint64_t position = 0;  ///< of its header in the file
  std::uint64_t sequence = 0;  ///< its number in the journal, and its nonce
  std::uint32_t length = 0;    ///< of its payload
};

/// A record as it is replayed; payload is valid during the call. What it says is judged by its moment,
/// wherever the record lies: it is newer than what has a smaller one.
struct ReplayedRecord {
  RecordKind kind = RecordKind::kData;
  std::uint16_t image = 0;
  std::uint64_t offset = 0;
  std::uint64_t sequence = 0;
  std::uint64_t moment = 0;  ///< bytes: when they were written; a chunk: all up to then is in it
  ByteView payload;
  RecordPlace place;
};

inline constexpr std::size_t kMaxRecordPayload = 131072;
inline constexpr std::uint64_t kMarkAfter = 4U << 20U;  ///< bytes; a start copies fewer within milliseconds

/// The encrypted log of a session's writes. Each segment's key is derived from the
/// device key and the segment's own random id, a record's nonce is its sequence
/// number: a segment is never continued after a restart, a failed append or a failed
/// sync, so no pair of the two ever repeats. A journal holds descriptors of its directory, of
/// the segments that have something to sync and of some that were read last.
///
/// Errors:  kIo: nothing of that append is in the journal, or that sync has not made everything durable. The next
///          one may go well, and then it covers all that was appended before. After a failed sync what the kernel still
///          holds is not believed: it is copied to a new file first. kCorrupt from reading.
/// Threads: any. Many threads that sync at once share one fdatasync.
class Journal {
 public:
  /// Opens the segments of a directory (made when absent) and replays every record in
  /// order; what was replayed is durable then. A torn end, which no sync can have
  /// covered, is cut off; damage before it is Error{kCorrupt} naming the segment, and
  /// so is a key that is not the one it was written under. Nothing is cut then.
  /// A sync writes the journal's mark (journal_mark.h) once `mark_after` bytes have become durable since the last one.
  Journal(std::filesystem::path directory, const Key& device_key,
          const std::function<void(const ReplayedRecord&)>& replay, std::uint64_t mark_after = kMarkAfter);
  ~Journal();

  struct Entry {
    RecordKind kind = RecordKind::kData;
    std::uint16_t image = 0;
    std::uint64_t offset = 0;
    ByteView payload;
    std::optional<std::uint64_t> moment{};  ///< absent: its own sequence number, of what is new
  };
  /// Appends in order. On return they survive a crash of this process; a crash before
  /// may leave any number of the first of them.
  std::vector<RecordPlace> append(std::span<const Entry> entries);
  /// Every record appended before survives a power cut on return.
  void sync();
  /// out.size() == place.length. Error{kCorrupt} when the record does not verify.
  void read(const RecordPlace& place, MutableBytes out) const;
  /// The sequence number that the next record will have.
  std::uint64_t next_sequence() const;
  /// Sequence numbers begin above this; call before the first append.
  void raise_sequence(std::uint64_t at_least);
  /// Deletes segments that nobody holds a place in (after a sync, so that what
  /// supersedes them is durable first). Returns the bytes freed.
  std::uint64_t collect();
  std::uint64_t size_bytes() const;
  /// All but the one being appended to, oldest first.
  std::vector<SegmentPtr> full_segments() const;
  std::size_t segment_count() const;
  std::uint64_t size_of(const SegmentPtr& segment) const;
  /// The next append begins a new segment, so that the current one can be collected.
  void roll();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
