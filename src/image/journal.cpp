// Appends are serialised by one mutex: number, encryption and pwrite together, so
// that a record that was answered never has a hole before it. AES-GCM at 4 GB/s
// makes that cheaper than sorting out holes at replay.
//
// Every record header says how many records of its segment are known to be
// synced. At replay a record that does not verify is a torn end, unless a later
// one says that it was synced: then it is damage.

#include "image/journal.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sync.h"

namespace isr {
namespace {

constexpr std::string_view kMagic = "ISRJ";
constexpr std::uint32_t kFormat = 1;
constexpr std::size_t kSegmentHeaderSize = 48;  // magic 4 | format u32 | id 32 | index u64
constexpr std::size_t kRecordHeaderSize = 32;
constexpr std::uint64_t kSegmentSize = 64U << 20U;

using SegmentId = FixedBytes<32, struct SegmentIdTag>;

struct RecordHeader {
  RecordKind kind = RecordKind::kMark;
  std::uint16_t image = 0;
  std::uint32_t length = 0;
  std::uint64_t offset = 0;
  std::uint64_t sequence = 0;
  std::uint64_t synced = 0;  // records of this segment that are known durable
};

void encode_header(const RecordHeader& h, std::uint8_t* out) {
  ByteWriter w;
  w.u8(static_cast<std::uint8_t>(h.kind)).u8(0).u16(h.image).u32(h.length).u64(h.offset).u64(h.sequence).u64(h.synced);
  std::copy(w.bytes().begin(), w.bytes().end(), out);
}

/// nullopt: not a header.
std::optional<RecordHeader> decode_header(ByteView bytes) {
  ByteReader r(bytes, "journal record");
  RecordHeader h;
  const std::uint8_t kind = r.u8();
  if (kind < 1 || kind > 4 || r.u8() != 0) return std::nullopt;
  h.kind = static_cast<RecordKind>(kind);
  h.image = r.u16();
  h.length = r.u32();
  h.offset = r.u64();
  h.sequence = r.u64();
  h.synced = r.u64();
  if (h.length > kMaxRecordPayload) return std::nullopt;
  return h;
}

Nonce record_nonce(std::uint64_t number) {
  Nonce nonce;
  for (std::size_t i = 0; i < 8; ++i) nonce.value[i] = static_cast<std::uint8_t>(number >> (8 * i));
  return nonce;
}

constexpr std::size_t record_size(std::size_t payload) { return kRecordHeaderSize + payload + kTagSize; }

MutableBytes scratch_buffer(std::size_t size) {
  thread_local Bytes buffer;
  if (buffer.size() < size) buffer.resize(size);
  return MutableBytes(buffer).first(size);
}

}  // namespace

class JournalSegment {
 public:
  JournalSegment(fs::path file, UniqueFd handle, std::uint64_t number, const SegmentId& id, const Key& device_key)
      : path(std::move(file)),
        fd(std::move(handle)),
        index(number),
        key(hkdf_sha256(device_key.view(), id.view(), "isr1/journal")) {}

  fs::path path;
  UniqueFd fd;
  std::uint64_t index;
  Key key;
  std::uint64_t size = kSegmentHeaderSize;  // guarded by the journal's mutex
  std::uint64_t records = 0;                // the same
  std::uint64_t synced = 0;                 // the same
};

namespace {

std::shared_ptr<JournalSegment> create_segment(const fs::path& directory, std::uint64_t index, const Key& device_key) {
  SegmentId id;
  random_bytes(id.mutable_view());
  const fs::path path = directory / fmt::format("{:016x}.journal", index);
  UniqueFd fd = open_file(path, O_RDWR | O_CREAT | O_EXCL);
  ByteWriter header;
  header.put(as_bytes(kMagic)).u32(kFormat).put(id.view()).u64(index);
  write_all_at(fd.get(), header.bytes(), 0, path);
  sync_file(fd.get(), path);
  sync_directory(directory);
  return std::make_shared<JournalSegment>(path, std::move(fd), index, id, device_key);
}

/// Decrypts the record at `position`, whose header bytes are `head`. False: does not verify.
bool open_record(const JournalSegment& segment, ByteView record, std::uint64_t number, MutableBytes out) {
  const ByteView header = record.first(kRecordHeaderSize);
  const ByteView cipher = record.subspan(kRecordHeaderSize, out.size());
  const ByteView tag = record.subspan(kRecordHeaderSize + out.size(), kTagSize);
  return gcm_open(segment.key, record_nonce(number), {header}, cipher, tag, out);
}

class SegmentReplay {
 public:
  SegmentReplay(std::shared_ptr<JournalSegment> segment, const std::function<void(const ReplayedRecord&)>& visit)
      : segment_(std::move(segment)), visit_(visit), end_(file_size(segment_->fd.get(), segment_->path)) {}

  /// Returns the greatest sequence number seen.
  std::uint64_t run() {
    std::uint64_t greatest = 0;
    while (const auto record = next(segment_->size, segment_->records)) {
      greatest = std::max(greatest, record->header.sequence);
      if (record->header.kind != RecordKind::kMark) {
        visit_({record->header.kind, record->header.image, record->header.offset, record->header.sequence,
                record->payload, {segment_, segment_->size, segment_->records, record->header.length}});
      }
      segment_->size += record_size(record->header.length);
      ++segment_->records;
    }
    if (segment_->size < end_) cut_torn_end();
    segment_->synced = segment_->records;
    return greatest;
  }

 private:
  struct Found {
    RecordHeader header;
    ByteView payload;
  };

  std::optional<Found> next(std::uint64_t position, std::uint64_t number) {
    if (position + record_size(0) > end_) return std::nullopt;
    std::array<std::uint8_t, kRecordHeaderSize> head{};
    read_exact_at(segment_->fd.get(), head, position, segment_->path);
    const auto header = decode_header(head);
    if (!header || position + record_size(header->length) > end_) return std::nullopt;
    record_.resize(record_size(header->length));
    payload_.resize(header->length);
    read_exact_at(segment_->fd.get(), record_, position, segment_->path);
    if (!open_record(*segment_, record_, number, payload_)) return std::nullopt;
    return Found{*header, payload_};
  }

  /// What does not verify is torn unless a record behind it says that it was synced.
  void cut_torn_end() {
    const std::uint64_t bad_number = segment_->records;
    std::uint64_t skipped = 1;
    for (std::uint64_t position = segment_->size + 1; position + record_size(0) <= end_; ++position) {
      const std::uint64_t limit = bad_number + 1 + (position - segment_->size) / record_size(0);
      for (skipped = bad_number + 1; skipped <= std::min(limit, bad_number + kMaxLost); ++skipped) {
        const auto later = plausible(position) ? next(position, skipped) : std::nullopt;
        if (!later) continue;
        if (later->header.synced > bad_number) {
          throw Error(ErrorKind::kCorrupt,
                      fmt::format("journal segment {} is damaged at byte {}: {} synced records cannot be read",
                                  segment_->path.string(), segment_->size, later->header.synced - bad_number));
        }
        position = end_;
        break;
      }
    }
    log::warn("journal segment {}: {} bytes of unfinished writes at the end were dropped",
              segment_->path.filename().string(), end_ - segment_->size);
    if (::ftruncate(segment_->fd.get(), static_cast<off_t>(segment_->size)) != 0) {
      throw_errno(fmt::format("cannot cut {}", segment_->path.string()), errno);
    }
    sync_file(segment_->fd.get(), segment_->path);
  }

  bool plausible(std::uint64_t position) {
    std::array<std::uint8_t, kRecordHeaderSize> head{};
    read_exact_at(segment_->fd.get(), head, position, segment_->path);
    const auto header = decode_header(head);
    return header && position + record_size(header->length) <= end_;
  }

  static constexpr std::uint64_t kMaxLost = 64;
  std::shared_ptr<JournalSegment> segment_;
  const std::function<void(const ReplayedRecord&)>& visit_;
  std::uint64_t end_;
  Bytes record_, payload_;
};

}  // namespace

struct Journal::Impl {
  fs::path directory;
  Key device_key;
  struct State {
    std::vector<std::shared_ptr<JournalSegment>> segments;  // ascending; the last is appended to
    std::uint64_t next_sequence = 1;
    bool failed = false;
    bool must_roll = false;  // numbers of the last segment may have reached the disk with other bytes
  };
  Sync<State> state;

  void open_segment(State& s, const fs::path& path, const std::function<void(const ReplayedRecord&)>& replay) {
    UniqueFd fd = open_file(path, O_RDWR);
    if (file_size(fd.get(), path) < kSegmentHeaderSize) {  // a crash before its header was synced: never written to
      remove_if_exists(path);
      return;
    }
    Bytes header(kSegmentHeaderSize);
    read_exact_at(fd.get(), header, 0, path);
    ByteReader r(header, "journal segment");
    if (as_text(r.take(4)) != kMagic) {
      throw Error(ErrorKind::kCorrupt, fmt::format("{} is not a journal segment", path.string()));
    }
    if (const auto format = r.u32(); format != kFormat) {
      throw Error(ErrorKind::kUnsupported, fmt::format("{}: journal format {} is not known", path.string(), format));
    }
    const auto id = r.fixed<SegmentId>();
    auto segment = std::make_shared<JournalSegment>(path, std::move(fd), r.u64(), id, device_key);
    s.next_sequence = std::max(s.next_sequence, SegmentReplay(segment, replay).run() + 1);
    s.segments.push_back(std::move(segment));
  }

  void begin_segment(State& s) {
    const std::uint64_t index = s.segments.empty() ? 1 : s.segments.back()->index + 1;
    s.segments.push_back(create_segment(directory, index, device_key));
    s.must_roll = false;
  }

  static void refuse_after_failure(const State& s) {
    if (s.failed) {
      throw Error(ErrorKind::kIo, "the journal failed to sync before; nothing more is written to it",
                  {"free space or mend the disk, then stop and start the session again"});
    }
  }

  /// Says, in a record that need not be durable itself, that the last records of a full segment are.
  void write_mark(State& s, JournalSegment& segment) {
    Bytes record(record_size(0));
    encode_header({RecordKind::kMark, 0, 0, 0, s.next_sequence, segment.synced}, record.data());
    const auto tag = gcm_seal(segment.key, record_nonce(segment.records), {ByteView(record).first(kRecordHeaderSize)},
                              {}, MutableBytes(record).subspan(kRecordHeaderSize, 0));
    std::copy(tag.begin(), tag.end(), record.begin() + kRecordHeaderSize);
    write_all_at(segment.fd.get(), record, segment.size, segment.path);
    segment.size += record.size();
    ++segment.records;
    segment.synced = segment.records;
  }
};

Journal::Journal(fs::path directory, const Key& device_key, const std::function<void(const ReplayedRecord&)>& replay)
    : impl_(std::make_unique<Impl>()) {
  impl_->directory = std::move(directory);
  impl_->device_key = device_key;
  make_private_directory(impl_->directory);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(impl_->directory)) {
    if (entry.path().extension() == ".journal") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  auto state = impl_->state.lock();
  for (const auto& file : files) impl_->open_segment(*state, file, replay);
  impl_->begin_segment(*state);
}

Journal::~Journal() = default;

std::vector<RecordPlace> Journal::append(std::span<const Entry> entries) {
  std::size_t total = 0;
  for (const Entry& entry : entries) {
    if (entry.payload.size() > kMaxRecordPayload) throw Error(ErrorKind::kBug, "a journal record is too large");
    total += record_size(entry.payload.size());
  }
  const MutableBytes buffer = scratch_buffer(total);
  std::vector<RecordPlace> places;
  places.reserve(entries.size());

  auto state = impl_->state.lock();
  Impl::refuse_after_failure(*state);
  if (state->must_roll || state->segments.back()->size >= kSegmentSize) impl_->begin_segment(*state);
  const std::shared_ptr<JournalSegment> segment = state->segments.back();
  std::size_t at = 0;
  for (const Entry& entry : entries) {
    const std::uint64_t number = segment->records + places.size();
    const auto length = static_cast<std::uint32_t>(entry.payload.size());
    const MutableBytes record = buffer.subspan(at, record_size(length));
    encode_header({entry.kind, entry.image, length, entry.offset, state->next_sequence + places.size(),
                   segment->synced},
                  record.data());
    const auto tag = gcm_seal(segment->key, record_nonce(number), {ByteView(record).first(kRecordHeaderSize)},
                              entry.payload, record.subspan(kRecordHeaderSize, length));
    std::copy(tag.begin(), tag.end(), record.begin() + kRecordHeaderSize + length);
    places.push_back({segment, segment->size + at, number, length});
    at += record.size();
  }
  try {
    write_all_at(segment->fd.get(), buffer, segment->size, segment->path);
  } catch (const Error&) {
    // Numbers are nonces: what may have reached the file must not be written over with others.
    if (::ftruncate(segment->fd.get(), static_cast<off_t>(segment->size)) != 0) state->failed = true;
    state->must_roll = true;
    throw;
  }
  segment->size += at;
  segment->records += places.size();
  state->next_sequence += places.size();
  return places;
}

void Journal::sync() {
  // One fdatasync, outside the mutex, so that writes go on meanwhile.
  std::vector<std::pair<std::shared_ptr<JournalSegment>, std::uint64_t>> unsynced;
  {
    auto state = impl_->state.lock();
    Impl::refuse_after_failure(*state);
    for (const auto& segment : state->segments) {
      if (segment->synced < segment->records) unsynced.emplace_back(segment, segment->records);
    }
  }
  for (const auto& [segment, records] : unsynced) {
    const int result = ::fdatasync(segment->fd.get());
    const int error = errno;
    auto state = impl_->state.lock();
    if (result != 0) {
      state->failed = true;
      throw_errno(fmt::format("cannot sync {}", segment->path.string()), error);
    }
    segment->synced = std::max(segment->synced, records);
    if (segment != state->segments.back() && segment->synced == segment->records) impl_->write_mark(*state, *segment);
  }
}

void Journal::read(const RecordPlace& place, MutableBytes out) const {
  const MutableBytes record = scratch_buffer(record_size(place.length));
  read_exact_at(place.segment->fd.get(), record, place.position, place.segment->path);
  if (out.size() != place.length || !open_record(*place.segment, record, place.number, out)) {
    throw Error(ErrorKind::kCorrupt, fmt::format("journal segment {} is damaged at byte {}",
                                                 place.segment->path.string(), place.position));
  }
}

std::uint64_t Journal::next_sequence() const { return impl_->state.lock()->next_sequence; }

void Journal::raise_sequence(std::uint64_t at_least) {
  auto state = impl_->state.lock();
  state->next_sequence = std::max(state->next_sequence, at_least + 1);
}

std::uint64_t Journal::collect() {
  std::vector<std::shared_ptr<JournalSegment>> unneeded;
  {
    auto state = impl_->state.lock();
    for (const auto& segment : state->segments) {
      // Two: the list's and the loop's copy below does not exist yet. New holders come only from append().
      if (segment != state->segments.back() && segment.use_count() == 1) unneeded.push_back(segment);
    }
  }
  if (unneeded.empty()) return 0;
  sync();
  std::uint64_t freed = 0;
  auto state = impl_->state.lock();
  for (const auto& segment : unneeded) {
    remove_if_exists(segment->path);
    freed += segment->size;
    std::erase(state->segments, segment);
  }
  return freed;
}

std::uint64_t Journal::size_bytes() const {
  std::uint64_t total = 0;
  auto state = impl_->state.lock();
  for (const auto& segment : state->segments) total += segment->size;
  return total;
}

SegmentPtr Journal::oldest() const {
  auto state = impl_->state.lock();
  return state->segments.size() > 1 ? state->segments.front() : nullptr;
}

void Journal::roll() {
  auto state = impl_->state.lock();
  Impl::refuse_after_failure(*state);
  if (state->segments.back()->records > 0) impl_->begin_segment(*state);
}

}  // namespace isr
