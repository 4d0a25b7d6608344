// One mutex serialises appends: number, encryption and pwrite together, so that no acknowledged record ever follows a
// gap. AES-GCM at 4 GB/s makes that cheaper than handling gaps at replay.
//
// After a failed fdatasync the kernel holds pages that it counts as written although the disk does not have them, and
// the next fdatasync would report success. So the segment ends, and the next sync replaces its file with a copy. Replay
// does the same for the same reason (journal_replay.cpp).

#include "image/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sync.h"
#include "image/journal_mark.h"
#include "image/journal_replay.h"
#include "image/two_halves.h"

namespace isr {
namespace {

constexpr std::uint64_t kSegmentSize = 64U << 20U;
constexpr std::uint64_t kWritebackStep = 8U << 20U;

using Segment = std::shared_ptr<JournalSegment>;

/// One buffer for each thread. The contents are valid until the thread's next call of the journal.
MutableBytes scratch_buffer(std::size_t size) {
  thread_local Bytes buffer;
  if (buffer.size() < size) buffer.resize(size);
  return MutableBytes(buffer).first(size);
}

fs::path made(fs::path directory) {
  make_private_directory(directory);
  return directory;
}

}  // namespace

struct Journal::Impl {
  Impl(fs::path journal_directory, const Key& key, std::uint64_t bytes_between_marks)
      : directory(made(std::move(journal_directory))),
        device_key(key),
        mark_after(bytes_between_marks),
        files(directory) {}

  fs::path directory;
  SecretKey device_key;
  std::uint64_t mark_after;
  OpenSegments files;
  struct State {
    std::vector<Segment> segments;  // ascending
    Segment current;                // the last of them while it is appended to
    Segment torn;  // an append to it failed: the bytes after its end must be removed before the next append
    std::uint64_t next_index = 1;
    std::uint64_t next_sequence = 1;
    std::uint64_t end = 1;      // the last record's sequence number, plus one; less than the next one's after a raise
    std::uint64_t durable = 0;  // every record up to this sequence number is durable
    bool syncing = false;
    std::uint64_t unmarked = 0;  // bytes that were synced after the last mark
  };
  Sync<State> state;
  std::condition_variable synced;  // signals the end of `syncing`
  TwoHalves halves;                // guarded by state's mutex

  /// The segment to append to.
  JournalSegment& begin(State& s) {
    mend(s);
    if (s.current && s.current->size >= kSegmentSize) end_current(s);
    if (s.current) return *s.current;
    const Segment segment = JournalSegment::make(directory, {s.next_index, s.next_sequence, s.end}, device_key);
    segment->file = files.create(segment->index);
    try {
      write_all_at(segment->file->get(), segment->first_bytes(), 0, segment->path);
    } catch (const Error&) {
      segment->file.reset();
      files.remove(segment->index);
      throw;
    }
    ++s.next_index;
    s.segments.push_back(segment);
    s.current = segment;
    return *segment;
  }

  static void let_go(JournalSegment& segment) {
    if (segment.is_synced()) segment.file.reset();
  }

  static void end_current(State& s) {
    if (s.current) let_go(*s.current);
    s.current.reset();
  }

  /// Sequence numbers are nonces. Bytes that may have reached the file must not be overwritten with others under the
  /// same number. So the segment ends here.
  void end_after_failed_append(State& s) {
    s.torn = std::move(s.current);
    s.current.reset();
    try {
      mend(s);
    } catch (const Error& error) {
      log::warn("{}; nothing more is written to the journal until this succeeds", error.what());
    }
  }

  /// Cuts off the records of a failed append. A replay must not see them, because the next segment has their numbers.
  void mend(State& s) {
    if (!s.torn) return;
    if (s.torn->size == kSegmentHeaderSize) {
      s.torn->file.reset();
      files.remove(s.torn->index);
      s.next_index = s.torn->index;
      std::erase(s.segments, s.torn);
    } else {
      s.torn->file = files.get(s.torn->index);
      if (::ftruncate(s.torn->file->get(), static_cast<off_t>(s.torn->size)) != 0) {
        throw_errno(fmt::format("cannot cut {}", s.torn->path.string()), errno);
      }
      s.torn->is_cut = true;
    }
    s.torn.reset();
  }

  struct Unsynced {
    Segment segment;
    SegmentFile file;
    std::uint64_t size = 0;
    bool is_suspect = false;
    bool is_cut = false;
    bool is_synced = false;
  };

  /// True when the segment's file will be removed, so that a new segment can take its name.
  static bool will_be_removed(const State& s, const Segment& segment) {
    return segment == s.torn && segment->size == kSegmentHeaderSize;
  }

  /// The newest segment: it has the newest record, or none yet. nullptr when there is no segment.
  static Segment newest_of(const State& s) {
    const auto stays = [&](const Segment& segment) { return !will_be_removed(s, segment); };
    const auto newest = std::find_if(s.segments.rbegin(), s.segments.rend(), stays);
    return newest == s.segments.rend() ? nullptr : *newest;
  }

  static std::vector<Unsynced> unsynced_of(const State& s) {
    std::vector<Unsynced> unsynced;
    for (const Segment& segment : s.segments) {
      if (segment->is_synced() || will_be_removed(s, segment)) continue;
      unsynced.push_back({segment, segment->file, segment->size, segment->is_suspect, segment->is_cut});
    }
    return unsynced;
  }

  /// nullopt when everything is durable.
  std::optional<Error> sync_files(std::vector<Unsynced>& unsynced) {
    try {
      for (Unsynced& part : unsynced) {
        if (part.is_suspect) {
          part.file = files.replace(part.segment->index, [&, from = part.file](int fd) {
            copy_verified(*part.segment, from->get(), fd, part.size);
          });
        } else {
          part.is_suspect = true;
          sync_file(part.file->get(), part.segment->path);
        }
        part.is_suspect = false;
        part.is_synced = true;
      }
      const auto is_new = [](const Unsynced& part) { return !part.segment->is_named; };  // only a sync changes it
      if (std::any_of(unsynced.begin(), unsynced.end(), is_new)) files.sync_names();
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  }
};

Journal::Journal(fs::path directory, const Key& device_key, const std::function<void(const ReplayedRecord&)>& replay,
                 std::uint64_t mark_after)
    : impl_(std::make_unique<Impl>(std::move(directory), device_key, mark_after)) {
  try {
    auto state = impl_->state.lock();
    ReplayedJournal found = replay_journal(impl_->directory, device_key, impl_->files, replay);
    state->segments = std::move(found.segments);
    state->next_index = found.next_index;
    state->next_sequence = state->end = found.next_sequence;
    state->durable = state->next_sequence - 1;
  } catch (const fs::filesystem_error& error) {
    throw as_error(error);  // callers catch Error
  }
}

Journal::~Journal() = default;

std::vector<RecordPlace> Journal::append(std::span<const Entry> entries) {
  if (entries.empty()) return {};
  std::size_t total = 0;
  for (const Entry& entry : entries) {
    if (entry.payload.size() > kMaxRecordPayload) throw Error(ErrorKind::kBug, "a journal record is too large");
    total += record_size(entry.payload.size());
  }
  const MutableBytes buffer = scratch_buffer(total);
  std::vector<RecordPlace> places;
  places.reserve(entries.size());

  auto state = impl_->state.lock();
  JournalSegment& segment = impl_->begin(*state);
  std::size_t at = 0;
  for (const Entry& entry : entries) {
    const auto length = static_cast<std::uint32_t>(entry.payload.size());
    places.push_back({state->current, segment.size + at, state->next_sequence + places.size(), length});
    at += record_size(length);
  }
  impl_->halves.run(entries.size(), [&, durable = state->durable](std::size_t i) {
    const Entry& entry = entries[i];
    const RecordPlace& place = places[i];
    segment.seal_record({entry.kind, entry.image, place.length, entry.offset, place.sequence, durable,
                         entry.moment.value_or(place.sequence)},
                        entry.payload, buffer.subspan(place.position - segment.size, record_size(place.length)));
  });
  try {
    write_all_at(segment.file->get(), buffer, segment.size, segment.path);
  } catch (const Error&) {
    impl_->end_after_failed_append(*state);
    throw;
  }
  segment.size += at;
  state->next_sequence += places.size();
  state->end = state->next_sequence;
  const std::uint64_t from = segment.writeback_size;
  const std::uint64_t length = segment.size - from;
  if (length < kWritebackStep) return places;
  segment.writeback_size = segment.size;
  const SegmentFile file = segment.file;
  state.unlock();
  // Begins write-back, so that a later sync has less to wait for. The sync reports errors.
  ::sync_file_range(file->get(), static_cast<off_t>(from), static_cast<off_t>(length), SYNC_FILE_RANGE_WRITE);
  return places;
}

void Journal::sync() {
  std::vector<Impl::Unsynced> unsynced;
  std::uint64_t goal = 0;
  std::uint64_t last = 0;     // the newest record; after a raise it may be below the goal, as later numbers may come
  std::uint64_t covered = 0;  // bytes
  Segment newest;
  bool wants_mark = false;
  {
    auto state = impl_->state.lock();
    const std::uint64_t asked = state->next_sequence - 1;
    for (;;) {
      if (state->durable >= asked) return;
      if (!state->syncing) break;
      // One fdatasync at a time, shared by all waiting threads.
      state.wait(impl_->synced, [&] { return !state->syncing; });
    }
    state->syncing = true;
    goal = state->next_sequence - 1;
    last = state->end - 1;
    unsynced = Impl::unsynced_of(*state);
    for (const Impl::Unsynced& part : unsynced) covered += part.size - part.segment->synced_size;
    newest = Impl::newest_of(*state);
    wants_mark = newest && state->unmarked + covered >= impl_->mark_after;
  }
  const auto failure = impl_->sync_files(unsynced);  // without the mutex, so that writes go on meanwhile
  const bool has_mark = !failure && wants_mark && write_mark(impl_->directory, impl_->device_key, *newest, last);
  {
    auto state = impl_->state.lock();
    if (!failure) state->unmarked = has_mark ? 0 : state->unmarked + covered;
    state->syncing = false;
    if (!failure) state->durable = std::max(state->durable, goal);
    for (const Impl::Unsynced& part : unsynced) {
      JournalSegment& segment = *part.segment;
      segment.is_suspect = part.is_suspect;
      segment.file = part.file;
      if (part.is_suspect && part.segment == state->current) state->current.reset();  // the copy must have all of it
      if (part.is_synced) segment.synced_size = part.size;
      if (part.is_synced && part.is_cut) segment.is_cut = false;
      if (!failure) segment.is_named = true;
      if (part.segment != state->current) Impl::let_go(segment);
    }
    impl_->synced.notify_all();
  }
  if (failure) throw *failure;
}

void Journal::read(const RecordPlace& place, MutableBytes out) const {
  const MutableBytes record = scratch_buffer(record_size(place.length));
  const SegmentFile file = impl_->files.get(place.segment->index);
  read_exact_at(file->get(), record, place.position, place.segment->path);
  if (out.size() != place.length || !place.segment->open_record(record, place.sequence, out)) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("journal segment {} is damaged at byte {}", place.segment->path.string(), place.position));
  }
}

std::uint64_t Journal::next_sequence() const { return impl_->state.lock()->next_sequence; }

void Journal::raise_sequence(std::uint64_t at_least) {
  auto state = impl_->state.lock();
  if (state->next_sequence > at_least) return;
  Impl::end_current(*state);  // numbers within a segment have no gaps
  state->next_sequence = at_least + 1;
}

std::uint64_t Journal::collect() {
  std::vector<Segment> unneeded;
  {
    auto state = impl_->state.lock();
    for (const Segment& segment : state->segments) {
      // A use count of 1 is the list's own. A new holder of a place in a full segment can only copy it from another
      // holder, so no new holder can appear now.
      if (segment != state->current && segment.use_count() == 1) unneeded.push_back(segment);
    }
  }
  if (unneeded.empty()) return 0;
  sync();
  std::uint64_t freed = 0;
  for (const Segment& segment : unneeded) {
    impl_->files.remove(segment->index);
    freed += segment->size;
  }
  auto state = impl_->state.lock();
  std::erase_if(state->segments, [&](const Segment& segment) {
    return std::find(unneeded.begin(), unneeded.end(), segment) != unneeded.end();
  });
  return freed;
}

std::uint64_t Journal::size_bytes() const {
  std::uint64_t total = 0;
  auto state = impl_->state.lock();
  for (const Segment& segment : state->segments) total += segment->size;
  return total;
}

std::vector<SegmentPtr> Journal::full_segments() const {
  auto state = impl_->state.lock();
  std::vector<SegmentPtr> full(state->segments.begin(), state->segments.end());
  if (state->current) full.pop_back();
  return full;
}

std::size_t Journal::segment_count() const { return impl_->state.lock()->segments.size(); }

std::uint64_t Journal::size_of(const SegmentPtr& segment) const {
  auto state = impl_->state.lock();
  return segment->size;
}

void Journal::roll() {
  auto state = impl_->state.lock();
  if (state->current && state->current->size > kSegmentHeaderSize) Impl::end_current(*state);
}

}  // namespace isr
