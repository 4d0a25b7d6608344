// Appends are serialised by one mutex: number, encryption and pwrite together, so
// that a record that was answered never has a hole before it. AES-GCM at 4 GB/s
// makes that cheaper than sorting out holes at replay.
//
// Every record says up to which sequence number all was durable when it was
// written. At replay a record that does not verify is a torn end, unless any other
// record of the journal says that it was synced: then it is damage.

#include "image/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <latch>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sync.h"
#include "base/thread_pool.h"
#include "image/journal_segment.h"

namespace isr {
namespace {

constexpr std::uint64_t kSegmentSize = 64U << 20U;
constexpr std::uint64_t kWritebackStep = 8U << 20U;
constexpr std::size_t kLongAppend = 8;  // records: less is done before another thread has woken up

using Segment = std::shared_ptr<JournalSegment>;

/// One a thread; what is in it lasts until the thread's next call of the journal.
MutableBytes scratch_buffer(std::size_t size) {
  thread_local Bytes buffer;
  if (buffer.size() < size) buffer.resize(size);
  return MutableBytes(buffer).first(size);
}

std::vector<fs::path> segment_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".journal") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// A segment whose header never reached the disk. Whatever else is in it was not synced either.
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

void cut(const JournalSegment& segment, const SegmentReplay& found) {
  log::warn("journal segment {}: {} bytes of unfinished writes at the end were dropped",
            segment.path.filename().string(), found.file_size - found.end);
  if (::ftruncate(segment.fd.get(), static_cast<off_t>(found.end)) != 0) {
    throw_errno(fmt::format("cannot cut {}", segment.path.string()), errno);
  }
}

}  // namespace

struct Journal::Impl {
  fs::path directory;
  Key device_key;
  struct State {
    std::vector<Segment> segments;  // ascending
    Segment current;                // the last of them while it is appended to
    std::uint64_t next_index = 1;
    std::uint64_t next_sequence = 1;
    std::uint64_t durable = 0;  // every record up to this sequence number is
    bool failed = false;
    bool syncing = false;
  };
  Sync<State> state;
  std::condition_variable synced;      // `syncing` ended
  std::unique_ptr<ThreadPool> second;  // guarded by state's mutex; begun with the first long append

  /// False: no thread is to be had, so whoever appends does it all.
  bool has_second() {
    try {
      if (!second) second = std::make_unique<ThreadPool>(1);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  /// body(i) for each i; of a long append one half on another processor, since
  /// encryption is most of what a writer waits for. With the state's mutex held.
  template <class Body>
  void in_two_halves(std::size_t count, const Body& body) {
    const std::size_t half = count >= kLongAppend && has_second() ? count / 2 : 0;
    std::exception_ptr failure;
    std::latch done(half > 0 ? 1 : 0);
    if (half > 0) {
      second->submit([&] {
        try {
          for (std::size_t i = 0; i < half; ++i) body(i);
        } catch (...) {
          failure = std::current_exception();
        }
        done.count_down();
      });
    }
    try {
      for (std::size_t i = half; i < count; ++i) body(i);
    } catch (...) {
      done.wait();
      throw;
    }
    done.wait();
    if (failure) std::rethrow_exception(failure);
  }

  void replay_all(State& s, const std::function<void(const ReplayedRecord&)>& visit) {
    std::vector<SegmentReplay> replays;
    std::vector<std::pair<fs::path, std::size_t>> headerless;  // with how many segments stand before it
    std::uint64_t greatest_synced = 0;
    for (const fs::path& file : segment_files(directory)) {
      Segment segment = JournalSegment::open(file, open_file(file, O_RDWR), device_key);
      if (!segment) {
        headerless.emplace_back(file, s.segments.size());
        continue;
      }
      if (segment->first_sequence < s.next_sequence || segment->index < s.next_index) {
        throw Error(ErrorKind::kCorrupt, fmt::format("journal segment {} is not in its place", file.string()));
      }
      replays.push_back(replay_segment(segment, visit));
      greatest_synced = std::max(greatest_synced, replays.back().greatest_synced);
      s.next_index = segment->index + 1;
      s.next_sequence = replays.back().end_sequence;
      s.segments.push_back(std::move(segment));
    }
    for (std::size_t i = 0; i < replays.size(); ++i) check_end(*s.segments[i], replays[i], greatest_synced);
    for (const auto& [file, before] : headerless) {
      // A sync of what comes behind it would have covered its header.
      if (before == s.segments.size() || s.segments[before]->first_sequence > greatest_synced + 1) continue;
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("journal segment {} is damaged: synced writes cannot be read", file.string()));
    }
    for (const auto& [file, before] : headerless) set_aside(file);
    for (std::size_t i = 0; i < replays.size(); ++i) settle_end(*s.segments[i], replays[i]);
    if (!s.segments.empty()) sync_directory(directory);
    s.durable = s.next_sequence - 1;
  }

  static void check_end(const JournalSegment& segment, const SegmentReplay& found, std::uint64_t greatest_synced) {
    const bool was_synced = found.end_sequence <= greatest_synced;
    if (found.end == found.file_size || !was_synced) return;
    throw Error(ErrorKind::kCorrupt,
                fmt::format("journal segment {} is damaged at byte {}: synced writes cannot be read",
                            segment.path.string(), found.end));
  }

  /// The writer may have been killed before it synced: what was replayed is made durable.
  static void settle_end(JournalSegment& segment, const SegmentReplay& found) {
    if (found.end < found.file_size) cut(segment, found);
    sync_file(segment.fd.get(), segment.path);
    segment.size = segment.synced_size = found.end;
    segment.is_named = true;
  }

  /// The segment to append to.
  JournalSegment& begin(State& s) {
    if (s.failed) {
      throw Error(ErrorKind::kIo, "the journal failed to sync before; nothing more is written to it",
                  {"free space or mend the disk, then stop and start the session again"});
    }
    if (!s.current || s.current->size >= kSegmentSize) {
      s.current.reset();
      s.current = JournalSegment::create(directory, s.next_index, s.next_sequence, device_key);
      ++s.next_index;
      s.segments.push_back(s.current);
    }
    return *s.current;
  }

  /// Sequence numbers are nonces: what may have reached the file must not be written
  /// over with other bytes under the same number. So the segment ends here.
  static void end_after_failed_append(State& s) {
    const Segment segment = std::move(s.current);
    s.current.reset();
    if (segment->size == kSegmentHeaderSize) {
      std::erase(s.segments, segment);
      remove_if_exists(segment->path);
    } else if (::ftruncate(segment->fd.get(), static_cast<off_t>(segment->size)) != 0) {
      s.failed = true;
    }
  }

  struct Unsynced {
    Segment segment;
    std::uint64_t size = 0;
    bool is_named = false;
  };

  /// nullopt: all of it is durable.
  std::optional<Error> sync_files(const std::vector<Unsynced>& unsynced) const {
    try {
      bool new_names = false;
      for (const Unsynced& part : unsynced) {
        sync_file(part.segment->fd.get(), part.segment->path);
        new_names = new_names || !part.is_named;
      }
      if (new_names) sync_directory(directory);
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  }
};

Journal::Journal(fs::path directory, const Key& device_key, const std::function<void(const ReplayedRecord&)>& replay)
    : impl_(std::make_unique<Impl>()) {
  impl_->directory = std::move(directory);
  impl_->device_key = device_key;
  make_private_directory(impl_->directory);
  try {
    impl_->replay_all(*impl_->state.lock(), replay);
  } catch (const fs::filesystem_error& error) {
    throw as_error(error);  // our callers catch Error
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
  impl_->in_two_halves(entries.size(), [&, durable = state->durable](std::size_t i) {
    const Entry& entry = entries[i];
    const RecordPlace& place = places[i];
    segment.seal_record({entry.kind, entry.image, place.length, entry.offset, place.sequence, durable}, entry.payload,
                        buffer.subspan(place.position - segment.size, record_size(place.length)));
  });
  try {
    write_all_at(segment.fd.get(), buffer, segment.size, segment.path);
  } catch (const Error&) {
    Impl::end_after_failed_append(*state);
    throw;
  }
  segment.size += at;
  state->next_sequence += places.size();
  const std::uint64_t from = segment.writeback_size;
  const std::uint64_t length = segment.size - from;
  if (length < kWritebackStep) return places;
  segment.writeback_size = segment.size;
  const Segment owner = state->current;
  state.unlock();
  // So that a later sync has little left to wait for. It only begins; errors are the sync's to report.
  ::sync_file_range(owner->fd.get(), static_cast<off_t>(from), static_cast<off_t>(length), SYNC_FILE_RANGE_WRITE);
  return places;
}

void Journal::sync() {
  std::vector<Impl::Unsynced> unsynced;
  std::uint64_t goal = 0;
  {
    auto state = impl_->state.lock();
    const std::uint64_t asked = state->next_sequence - 1;
    for (;;) {
      if (state->failed) throw Error(ErrorKind::kIo, "the journal failed to sync; what was written may not be durable");
      if (state->durable >= asked) return;
      if (!state->syncing) break;
      // One fdatasync at a time: it is shared by all who wait, and its failure, which the
      // kernel reports once, is seen by all of them.
      state.wait(impl_->synced, [&] { return !state->syncing; });
    }
    state->syncing = true;
    goal = state->next_sequence - 1;
    for (const Segment& segment : state->segments) {
      if (segment->synced_size < segment->size) unsynced.push_back({segment, segment->size, segment->is_named});
    }
  }
  const auto failure = impl_->sync_files(unsynced);  // outside the mutex: writes go on meanwhile
  {
    auto state = impl_->state.lock();
    state->syncing = false;
    if (failure) {
      state->failed = true;
    } else {
      state->durable = std::max(state->durable, goal);
      for (const Impl::Unsynced& part : unsynced) {
        part.segment->synced_size = part.size;
        part.segment->is_named = true;
      }
    }
    impl_->synced.notify_all();
  }
  if (failure) throw *failure;
}

void Journal::read(const RecordPlace& place, MutableBytes out) const {
  const MutableBytes record = scratch_buffer(record_size(place.length));
  read_exact_at(place.segment->fd.get(), record, place.position, place.segment->path);
  if (out.size() != place.length || !place.segment->open_record(record, place.sequence, out)) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("journal segment {} is damaged at byte {}", place.segment->path.string(), place.position));
  }
}

std::uint64_t Journal::next_sequence() const { return impl_->state.lock()->next_sequence; }

void Journal::raise_sequence(std::uint64_t at_least) {
  auto state = impl_->state.lock();
  if (state->next_sequence > at_least) return;
  state->current.reset();  // numbers within a segment have no gaps
  state->next_sequence = at_least + 1;
}

std::uint64_t Journal::collect() {
  std::vector<Segment> unneeded;
  {
    auto state = impl_->state.lock();
    for (const Segment& segment : state->segments) {
      // One: the list's. A place in a segment that is not appended to comes only from
      // another such place, so nobody can begin to hold it.
      if (segment != state->current && segment.use_count() == 1) unneeded.push_back(segment);
    }
  }
  if (unneeded.empty()) return 0;
  sync();
  std::uint64_t freed = 0;
  for (const Segment& segment : unneeded) {
    remove_if_exists(segment->path);
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

SegmentPtr Journal::oldest() const {
  auto state = impl_->state.lock();
  if (state->segments.empty() || state->segments.front() == state->current) return nullptr;
  return state->segments.front();
}

std::size_t Journal::segment_count() const { return impl_->state.lock()->segments.size(); }

std::uint64_t Journal::size_of(const SegmentPtr& segment) const {
  auto state = impl_->state.lock();
  return segment->size;
}

void Journal::roll() {
  auto state = impl_->state.lock();
  if (state->current && state->current->size > kSegmentHeaderSize) state->current.reset();
}

}  // namespace isr
