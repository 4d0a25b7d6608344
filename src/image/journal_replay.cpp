// Every record states up to which sequence number everything was durable when it was written. A record that does not
// verify is a torn end, unless any other record of the journal says that it was synced: then it is damage.
//
// Records that neither another record nor the mark (journal_mark.h) calls synced are read from the kernel's page cache.
// It may hold pages that a failed sync has marked clean although the disk does not have them. Writing them again into
// the same file is not enough: ext4 (6.18, too) remembers in such a page that its block was written, so after a
// successful sync the block stays "unwritten" in the inode, and reads as zeros after the next boot. So a segment with
// anything that is not called synced is copied to a new file, which is synced and replaces the old one. The bytes are
// the same, so no nonce gets a second plaintext.

#include "image/journal_replay.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "image/journal_mark.h"

namespace isr {
namespace {

std::vector<fs::path> segment_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".journal") files.push_back(entry.path());
    if (OpenSegments::is_leftover(entry.path())) remove_if_exists(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// Handles a segment whose header never reached the disk. The rest of it was not synced either.
void set_aside(const fs::path& file) {
  if (fs::file_size(file) <= kSegmentHeaderSize) {
    remove_if_exists(file);
    return;
  }
  fs::path aside = file;
  aside += ".unreadable";
  log::warn("journal segment {} has no header and was never synced; kept as {}", file.filename().string(),
            aside.filename().string());
  fs::rename(file, aside);
}

/// nullptr when not even its header was ever synced.
std::shared_ptr<JournalSegment> read_segment(const fs::path& path, const Key& device_key) {
  Bytes header(kSegmentHeaderSize);
  header.resize(read_at(open_file(path, O_RDONLY).get(), header, 0, path));
  return JournalSegment::parse(path, header, device_key);
}

struct Found {
  std::shared_ptr<JournalSegment> segment;
  SegmentReplay replay;
  bool is_short = false;                    ///< the next segment, or the mark, says that it was longer
  std::optional<std::uint64_t> end_before;  ///< the end of the segment before it, when that one is short
};

/// Finds files that are too short. A file that ends at the end of a record looks whole: only the next segment's header
/// and the mark show that it was longer.
void note_short(std::vector<Found>& all, const Mark& mark) {
  for (std::size_t i = 1; i < all.size(); ++i) {
    Found& before = all[i - 1];
    Found& behind = all[i];
    if (behind.segment->index != before.segment->index + 1) continue;  // the segment between them was collected
    before.is_short = before.replay.end_sequence < behind.segment->end_before();
    if (before.is_short) behind.end_before = before.replay.end_sequence;
  }
  for (Found& found : all) {
    if (found.segment == mark.newest && found.replay.end_sequence <= mark.synced) found.is_short = true;
  }
}

void check_end(const Found& found, std::uint64_t greatest_synced) {
  const bool is_whole = found.replay.end == found.replay.file_size && !found.is_short;
  if (is_whole || found.replay.end_sequence > greatest_synced) return;
  throw Error(ErrorKind::kCorrupt, fmt::format("journal segment {} is damaged at byte {}: synced writes cannot be read",
                                               found.segment->path.string(), found.replay.end));
}

/// Records a gap in the header of the segment after it, so that later syncs do not make it look like damage.
void copy_behind_gap(const Found& found, int from, int to, const Key& device_key) {
  JournalSegment& segment = *found.segment;
  const auto renewed = JournalSegment::make(segment.path.parent_path(),
                                            {segment.index, segment.first_sequence, *found.end_before}, device_key);
  copy_resealed(segment, from, *renewed, to, found.replay.end);
  segment.become(*renewed);
}

/// Returns true when the segment was copied.
bool settle_end(const Found& found, std::uint64_t greatest_synced, const Key& device_key, OpenSegments& files) {
  JournalSegment& segment = *found.segment;
  const SegmentReplay& replay = found.replay;
  segment.size = segment.synced_size = replay.end;
  segment.is_named = true;
  const bool is_torn = replay.end < replay.file_size;
  if (!is_torn && segment.first_sequence <= greatest_synced && replay.end_sequence <= greatest_synced + 1) return false;
  if (is_torn) {
    log::warn("journal segment {}: {} bytes of unfinished writes at the end were dropped",
              segment.path.filename().string(), replay.file_size - replay.end);
  }
  const SegmentFile old = files.get(segment.index);
  files.replace(segment.index, [&](int fd) {
    if (found.end_before) return copy_behind_gap(found, old->get(), fd, device_key);
    copy_verified(segment, old->get(), fd, replay.end);
  });
  return true;
}

}  // namespace

ReplayedJournal replay_journal(const fs::path& directory, const Key& device_key, OpenSegments& files,
                               const std::function<void(const ReplayedRecord&)>& visit) {
  ReplayedJournal journal;
  std::vector<Found> all;
  std::vector<std::pair<fs::path, std::size_t>> headerless;  // and the number of segments before it
  std::uint64_t greatest_synced = 0;
  for (const fs::path& file : segment_files(directory)) {
    auto segment = read_segment(file, device_key);
    if (!segment) {
      headerless.emplace_back(file, all.size());
      continue;
    }
    if (segment->first_sequence < journal.next_sequence || segment->index < journal.next_index ||
        file.filename() != OpenSegments::file_name(segment->index)) {
      throw Error(ErrorKind::kCorrupt, fmt::format("journal segment {} is in a wrong place", file.string()));
    }
    const SegmentFile opened = files.get(segment->index);
    const SegmentReplay replay = replay_segment(segment, opened->get(), visit);
    greatest_synced = std::max(greatest_synced, replay.greatest_synced);
    journal.next_index = segment->index + 1;
    journal.next_sequence = replay.end_sequence;
    all.push_back({std::move(segment), replay, false, std::nullopt});
  }
  for (const Found& found : all) journal.segments.push_back(found.segment);
  const Mark mark = read_mark(directory, device_key, journal.segments);
  greatest_synced = std::max(greatest_synced, mark.synced);
  note_short(all, mark);
  for (const Found& found : all) check_end(found, greatest_synced);
  for (const auto& [file, before] : headerless) {
    // A sync of the records after it would have covered its header.
    if (before == all.size() || all[before].segment->first_sequence > greatest_synced + 1) continue;
    throw Error(ErrorKind::kCorrupt,
                fmt::format("journal segment {} is damaged: synced writes cannot be read", file.string()));
  }
  for (const auto& [file, before] : headerless) set_aside(file);
  bool has_copied = false;
  for (const Found& found : all) has_copied |= settle_end(found, greatest_synced, device_key, files);
  // so that the next start need not copy again
  if (has_copied) write_mark(directory, device_key, *journal.segments.back(), journal.next_sequence - 1);
  return journal;
}

}  // namespace isr
