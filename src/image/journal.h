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
/// A holder of this pointer keeps the segment's file. Journal::collect() deletes files without a holder.
using SegmentPtr = std::shared_ptr<const JournalSegment>;

enum class RecordKind : std::uint8_t {
  kData = 1,  ///< payload: bytes at offset
  kZero = 2,  ///< payload: length u64 of zeros at offset
  /// payload: the reference of the chunk at offset
  kReplace = 3,
};
inline constexpr std::uint8_t kLastRecordKind = 3;

/// The place of a record.
struct RecordPlace {
  SegmentPtr segment;
  std::uint64_t position = 0;  ///< of the header in the file
  std::uint64_t sequence = 0;  ///< the record's number in the journal, and its nonce
  std::uint32_t length = 0;    ///< of the payload
};

/// A record during replay; the payload is valid during the call. Records are ordered by their moments, not by their
/// places: one with a greater moment is newer.
struct ReplayedRecord {
  RecordKind kind = RecordKind::kData;
  std::uint16_t image = 0;
  std::uint64_t offset = 0;
  std::uint64_t sequence = 0;
  std::uint64_t moment = 0;  ///< for bytes: when they were written; for a chunk: it holds all changes up to then
  ByteView payload;
  RecordPlace place;
};

inline constexpr std::size_t kMaxRecordPayload = 131072;
inline constexpr std::uint64_t kMarkAfter = 4U << 20U;  ///< bytes; a start copies less than this within milliseconds

/// The encrypted log of a session's writes. Each segment's key is derived from the device key and the segment's own
/// random id, and a record's nonce is its sequence number. A segment is never continued after a restart, a failed
/// append or a failed sync, so no (key, nonce) pair ever repeats. A journal holds descriptors of its directory, of the
/// segments that need a sync and of some that were read last.
///
/// Errors:  kIo: no part of that append is in the journal, or that sync did not make everything durable. A later sync
///          may succeed, and then covers everything that was appended before. After a failed sync the kernel's cached
///          pages are not trusted: they are copied to a new file first. kCorrupt from reading.
/// Threads: any. Threads that sync at the same time share one fdatasync.
class Journal {
 public:
  /// Opens the segments of a directory (made when absent) and replays every record in order; replayed records are
  /// durable afterwards. A torn end that no sync can have covered is cut off. Damage before it is Error{kCorrupt}
  /// naming the segment, and so is a key other than the one under which the journal was written; nothing is cut then. A
  /// sync writes the journal's mark (journal_mark.h) once `mark_after` bytes have become durable since the last mark.
  Journal(std::filesystem::path directory, const Key& device_key,
          const std::function<void(const ReplayedRecord&)>& replay, std::uint64_t mark_after = kMarkAfter);
  ~Journal();

  struct Entry {
    RecordKind kind = RecordKind::kData;
    std::uint16_t image = 0;
    std::uint64_t offset = 0;
    ByteView payload;
    std::optional<std::uint64_t> moment{};  ///< absent for new content: the record's own sequence number
  };
  /// Appends in order. On return the records survive a crash of this process. A crash before that may leave any number
  /// of the first ones.
  std::vector<RecordPlace> append(std::span<const Entry> entries);
  /// On return every record appended before survives a power cut.
  void sync();
  /// out.size() == place.length. Error{kCorrupt} when the record does not verify.
  void read(const RecordPlace& place, MutableBytes out) const;
  /// The sequence number that the next record will have.
  std::uint64_t next_sequence() const;
  /// Makes sequence numbers begin above this. Call before the first append.
  void raise_sequence(std::uint64_t at_least);
  /// Deletes segments without holders, after a sync, so that newer records are durable first. Returns the number of
  /// bytes freed.
  std::uint64_t collect();
  std::uint64_t size_bytes() const;
  /// All segments except the one being appended to, oldest first.
  std::vector<SegmentPtr> full_segments() const;
  std::size_t segment_count() const;
  std::uint64_t size_of(const SegmentPtr& segment) const;
  /// Makes the next append begin a new segment, so that the current one can be collected.
  void roll();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
