#pragma once

#include "base/file.h"
#include "image/journal.h"

namespace isr {

inline constexpr std::size_t kSegmentHeaderSize = 72;
inline constexpr std::size_t kRecordHeaderSize = 32;
constexpr std::size_t record_size(std::size_t payload) { return kRecordHeaderSize + payload + kTagSize; }

/// What stands before a record's payload; docs/formats/journal.md.
struct RecordHeader {
  RecordKind kind = RecordKind::kData;
  std::uint16_t image = 0;
  std::uint32_t length = 0;
  std::uint64_t offset = 0;
  std::uint64_t sequence = 0;
  std::uint64_t synced = 0;  ///< records up to this sequence number were durable when this one was written
};

/// One append-only file. Its records have consecutive sequence numbers, which are
/// their nonces under the segment's own key.
class JournalSegment {
 public:
  /// Makes the file. Error{kIo}; then nothing is left of it.
  static std::shared_ptr<JournalSegment> create(const fs::path& directory, std::uint64_t index,
                                                std::uint64_t first_sequence, const Key& device_key);
  /// nullptr: not even its header was ever synced. Error{kCorrupt} when the header does not verify under this key.
  static std::shared_ptr<JournalSegment> open(const fs::path& path, UniqueFd fd, const Key& device_key);

  /// out.size() == record_size(payload.size())
  void seal_record(const RecordHeader& header, ByteView payload, MutableBytes out) const;
  /// False: does not verify. out.size() is the payload's length.
  bool open_record(ByteView record, std::uint64_t sequence, MutableBytes out) const;

  const fs::path path;
  const UniqueFd fd;
  const std::uint64_t index;
  const std::uint64_t first_sequence;
  // Guarded by the journal's mutex:
  std::uint64_t size = kSegmentHeaderSize;
  std::uint64_t synced_size = 0;
  std::uint64_t writeback_size = 0;  ///< the kernel was told to begin writing what lies before
  bool is_named = false;             ///< its directory entry is durable

 private:
  JournalSegment(fs::path file, UniqueFd handle, std::uint64_t number, std::uint64_t first, const Key& segment_key);
  Key key_;
};

/// What the replay of one segment found.
struct SegmentReplay {
  std::uint64_t end_sequence = 0;     ///< that of the last good record, plus one
  std::uint64_t greatest_synced = 0;  ///< of every record that verifies, also behind the bad one
  std::uint64_t end = 0;              ///< where the good records end
  std::uint64_t file_size = 0;        ///< more than `end`: what follows does not verify
};

/// Visits the records up to the first that does not verify. Reads only.
SegmentReplay replay_segment(const std::shared_ptr<JournalSegment>& segment,
                             const std::function<void(const ReplayedRecord&)>& visit);

}  // namespace isr
