#pragma once

#include "image/journal.h"
#include "image/open_segments.h"

namespace isr {

inline constexpr std::size_t kSegmentHeaderSize = 80;
inline constexpr std::size_t kSegmentIdSize = 32;
inline constexpr std::size_t kRecordHeaderSize = 40;
constexpr std::size_t record_size(std::size_t payload) { return kRecordHeaderSize + payload + kTagSize; }

/// What stands before a record's payload; docs/formats/journal.md.
struct RecordHeader {
  RecordKind kind = RecordKind::kData;
  std::uint16_t image = 0;
  std::uint32_t length = 0;
  std::uint64_t offset = 0;
  std::uint64_t sequence = 0;
  std::uint64_t synced = 0;  ///< records up to this sequence number were durable when this one was written
  std::uint64_t moment = 0;  ///< up to its own sequence number; docs/formats/journal.md
};

/// One append-only file. Its records have consecutive sequence numbers, which are
/// their nonces under the segment's own key.
class JournalSegment {
 public:
  struct Begin {
    std::uint64_t index = 0;
    std::uint64_t first_sequence = 0;
    std::uint64_t end_before = 0;  ///< where the segment before it ended: its last sequence number, plus one
  };
  /// A new one, of which there is no file yet.
  static std::shared_ptr<JournalSegment> make(const fs::path& directory, const Begin& begin, const Key& device_key);
  /// From its file's first kSegmentHeaderSize bytes, or what there is of them. nullptr: not even its header was
  /// ever synced. Error{kCorrupt} when the header does not verify under this key.
  static std::shared_ptr<JournalSegment> parse(const fs::path& path, ByteView header, const Key& device_key);

  /// out.size() == record_size(payload.size())
  void seal_record(const RecordHeader& header, ByteView payload, MutableBytes out) const;
  /// False: does not verify. out.size() is the payload's length.
  bool open_record(ByteView record, std::uint64_t sequence, MutableBytes out) const;

  ByteView first_bytes() const { return header_; }                              ///< the header, as its file has it
  ByteView id() const { return ByteView(header_).subspan(8, kSegmentIdSize); }  ///< random, of this segment alone
  /// Takes the id, key and header of another one of the same index and first sequence number, in whose file the same
  /// records lie at the same places. Only before other threads use the segment.
  void become(const JournalSegment& other);

  const fs::path path;  ///< for errors
  const std::uint64_t index;
  const std::uint64_t first_sequence;
  // Guarded by the journal's mutex:
  SegmentFile file;  ///< held while it is appended to or has something to sync: a failed write is reported once, to
                     ///< the descriptors that are open
  std::uint64_t size = kSegmentHeaderSize;
  std::uint64_t synced_size = 0;
  std::uint64_t writeback_size = 0;  ///< the kernel was told to begin writing what lies before
  bool is_named = false;             ///< its directory entry is durable
  bool is_cut = false;               ///< what a failed append left was cut off, which is not durable yet
  bool is_suspect = false;           ///< a sync of it failed: its file must be replaced by a copy
  bool is_synced() const { return synced_size == size && is_named && !is_cut; }
  std::uint64_t end_before() const { return end_before_; }

 private:
  JournalSegment(fs::path file, ByteView header_bytes, const Begin& begin, const Key& segment_key);
  Bytes header_;
  SecretKey key_;
  std::uint64_t end_before_;
};

/// What the replay of one segment found.
struct SegmentReplay {
  std::uint64_t end_sequence = 0;     ///< that of the last good record, plus one
  std::uint64_t greatest_synced = 0;  ///< of every record that verifies, also behind the bad one
  std::uint64_t end = 0;              ///< where the good records end
  std::uint64_t file_size = 0;        ///< more than `end`: what follows does not verify
};

/// Visits the records up to the first that does not verify. Reads only.
SegmentReplay replay_segment(const std::shared_ptr<JournalSegment>& segment, int fd,
                             const std::function<void(const ReplayedRecord&)>& visit);

/// Copies the segment's first `end` bytes from one file to another, each record verified. Error{kIo} when one can no
/// longer be read: the disk has lost it, and it was never durable.
void copy_verified(const JournalSegment& segment, int from, int to, std::uint64_t end);
/// The same, sealed as records of another segment.
void copy_resealed(const JournalSegment& segment, int from, const JournalSegment& as, int to, std::uint64_t end);

}  // namespace isr
