#pragma once

#include "image/journal.h"
#include "image/open_segments.h"

namespace isr {

inline constexpr std::size_t kSegmentHeaderSize = 80;
inline constexpr std::size_t kSegmentIdSize = 32;
inline constexpr std::size_t kRecordHeaderSize = 40;
constexpr std::size_t record_size(std::size_t payload) { return kRecordHeaderSize + payload + kTagSize; }

/// The header before a record's payload; docs/formats/journal.md.
struct RecordHeader {
  RecordKind kind = RecordKind::kData;
  std::uint16_t image = 0;
  std::uint32_t length = 0;
  std::uint64_t offset = 0;
  std::uint64_t sequence = 0;
  std::uint64_t synced = 0;  ///< records up to this sequence number were durable when this one was written
  std::uint64_t moment = 0;  ///< at most its own sequence number; docs/formats/journal.md
};

/// One append-only file. Its records have consecutive sequence numbers, which are also their nonces under the segment's
/// own key.
class JournalSegment {
 public:
  struct Begin {
    std::uint64_t index = 0;
    std::uint64_t first_sequence = 0;
    std::uint64_t end_before = 0;  ///< the end of the segment before it: its last sequence number, plus one
  };
  /// A new segment that has no file yet.
  static std::shared_ptr<JournalSegment> make(const fs::path& directory, const Begin& begin, const Key& device_key);
  /// Parses the first kSegmentHeaderSize bytes of a file, or fewer if it is shorter. nullptr when not even the header
  /// was ever synced. Error{kCorrupt} when the header does not verify under this key.
  static std::shared_ptr<JournalSegment> parse(const fs::path& path, ByteView header, const Key& device_key);

  /// out.size() == record_size(payload.size())
  void seal_record(const RecordHeader& header, ByteView payload, MutableBytes out) const;
  /// Returns false when the record does not verify. out.size() must be the payload's length.
  bool open_record(ByteView record, std::uint64_t sequence, MutableBytes out) const;

  ByteView first_bytes() const { return header_; }                              ///< the header, as in the file
  ByteView id() const { return ByteView(header_).subspan(8, kSegmentIdSize); }  ///< random, for this segment only
  /// Takes over the id, key and header of another segment with the same index and first sequence number, whose file has
  /// the same records at the same places. Call only before other threads use the segment.
  void become(const JournalSegment& other);

  const fs::path path;  ///< for errors
  const std::uint64_t index;
  const std::uint64_t first_sequence;
  // The journal's mutex guards:
  SegmentFile file;  ///< held while it is appended to or needs a sync: a failed write is only
                     ///< reported to open descriptors
  std::uint64_t size = kSegmentHeaderSize;
  std::uint64_t synced_size = 0;
  std::uint64_t writeback_size = 0;  ///< the kernel has begun to write the bytes before it
  bool is_named = false;             ///< its directory entry is durable
  bool is_cut = false;               ///< the rest of a failed append was cut off, but that is not durable yet
  bool is_suspect = false;           ///< a sync failed, so its file must be replaced by a copy
  bool is_synced() const { return synced_size == size && is_named && !is_cut; }
  std::uint64_t end_before() const { return end_before_; }

 private:
  JournalSegment(fs::path file, ByteView header_bytes, const Begin& begin, const Key& segment_key);
  Bytes header_;
  SecretKey key_;
  std::uint64_t end_before_;
};

/// The result of replaying one segment.
struct SegmentReplay {
  std::uint64_t end_sequence = 0;     ///< the last good record's sequence number, plus one
  std::uint64_t greatest_synced = 0;  ///< over all records that verify, even after the bad one
  std::uint64_t end = 0;              ///< the end of the good records
  std::uint64_t file_size = 0;        ///< more than `end` when the rest does not verify
};

/// Visits the records before the first one that does not verify. Only reads.
SegmentReplay replay_segment(const std::shared_ptr<JournalSegment>& segment, int fd,
                             const std::function<void(const ReplayedRecord&)>& visit);

/// Copies the segment's first `end` bytes from one file to another and verifies each record. Error{kIo} when a record
/// can no longer be read: the disk has lost it, and it was never durable.
void copy_verified(const JournalSegment& segment, int from, int to, std::uint64_t end);
/// As copy_verified(), but seals the records for another segment.
void copy_resealed(const JournalSegment& segment, int from, const JournalSegment& as, int to, std::uint64_t end);

}  // namespace isr
