// The bytes of a segment. The header has a tag of its own: under a wrong key no record verifies, and without the tag
// that would look like a journal in which every write was torn.

#include "image/journal_segment.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace isr {
namespace {

constexpr std::string_view kMagic = "ISRJ";
constexpr std::uint32_t kFormat = 3;
constexpr std::size_t kSealedHeaderSize = kSegmentHeaderSize - kTagSize;
constexpr std::size_t kWindowSize = 1U << 20U;

/// For the header's tag. No sequence number gives this nonce.
Nonce header_nonce() {
  Nonce nonce;
  nonce.value.fill(0xff);
  return nonce;
}

Nonce record_nonce(std::uint64_t sequence) {
  Nonce nonce;
  for (std::size_t i = 0; i < 8; ++i) nonce.value[i] = static_cast<std::uint8_t>(sequence >> (8 * i));
  return nonce;
}

template <class Integer>
void store(std::uint8_t*& out, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i) *out++ = static_cast<std::uint8_t>(value >> (8 * i));
}

void encode_header(const RecordHeader& h, std::uint8_t* out) {
  store(out, static_cast<std::uint8_t>(h.kind));
  store(out, std::uint8_t{0});
  store(out, h.image);
  store(out, h.length);
  store(out, h.offset);
  store(out, h.sequence);
  store(out, h.synced);
  store(out, h.moment);
}

/// nullopt when this is not a header. bytes must have at least kRecordHeaderSize.
std::optional<RecordHeader> decode_header(ByteView bytes) {
  if (bytes[0] < 1 || bytes[0] > kLastRecordKind || bytes[1] != 0) return std::nullopt;  // rules out most other bytes
  ByteReader r(bytes, "journal record");
  RecordHeader h;
  h.kind = static_cast<RecordKind>(r.u8());
  r.u8();
  h.image = r.u16();
  h.length = r.u32();
  h.offset = r.u64();
  h.sequence = r.u64();
  h.synced = r.u64();
  h.moment = r.u64();
  if (h.length > kMaxRecordPayload || h.synced >= h.sequence || h.moment > h.sequence) return std::nullopt;
  return h;
}

SecretKey segment_key(const Key& device_key, ByteView id) { return hkdf_sha256(device_key.view(), id, "isr1/journal"); }

/// Reads the records in a segment's first `end` bytes through a window, so that a record costs no system call.
class RecordReader {
 public:
  RecordReader(const JournalSegment& segment, int fd, std::uint64_t end) : segment_(segment), fd_(fd), end_(end) {}

  /// nullopt when there is no room for a header.
  std::optional<RecordHeader> header_at(std::uint64_t position) {
    if (position + record_size(0) > end_) return std::nullopt;
    const auto header = decode_header(bytes_at(position, kRecordHeaderSize));
    if (!header || position + record_size(header->length) > end_) return std::nullopt;
    return header;
  }

  /// nullopt when the record does not verify. Otherwise payload() is its payload, and record() its bytes in the file.
  std::optional<RecordHeader> verified_at(std::uint64_t position) {
    const auto header = header_at(position);
    if (!header) return std::nullopt;
    payload_.resize(header->length);
    record_ = bytes_at(position, record_size(header->length));
    if (!segment_.open_record(record_, header->sequence, payload_)) return std::nullopt;
    return header;
  }
  ByteView payload() const { return payload_; }
  ByteView record() const { return record_; }

 private:
  /// Must lie within `end`.
  ByteView bytes_at(std::uint64_t position, std::size_t size) {
    if (position < window_start_ || position + size > window_start_ + window_.size()) {
      window_.resize(std::min<std::uint64_t>(kWindowSize, end_ - position));
      window_start_ = position;
      read_exact_at(fd_, window_, position, segment_.path);
    }
    return ByteView(window_).subspan(position - window_start_, size);
  }

  const JournalSegment& segment_;
  int fd_;
  std::uint64_t end_;
  Bytes payload_;
  Bytes window_;
  ByteView record_;
  std::uint64_t window_start_ = 0;
};

class Replay {
 public:
  Replay(const std::shared_ptr<JournalSegment>& segment, int fd,
         const std::function<void(const ReplayedRecord&)>& visit)
      : segment_(segment),
        visit_(visit),
        found_{segment->first_sequence, 0, kSegmentHeaderSize, file_size(fd, segment->path)},
        records_(*segment, fd, found_.file_size) {}

  SegmentReplay run() {
    while (const auto header = records_.verified_at(found_.end)) {
      if (header->sequence != found_.end_sequence) break;
      note(*header);
      visit_({header->kind,
              header->image,
              header->offset,
              header->sequence,
              header->moment,
              records_.payload(),
              {segment_, found_.end, header->sequence, header->length}});
      found_.end += record_size(header->length);
      ++found_.end_sequence;
    }
    look_behind();
    return found_;
  }

 private:
  void note(const RecordHeader& header) { found_.greatest_synced = std::max(found_.greatest_synced, header.synced); }

  /// Evaluates records after the first bad one.
  void look_behind() {
    std::uint64_t position = found_.end + 1;
    while (position + record_size(0) <= found_.file_size) {
      const std::uint64_t skipped = position - found_.end;
      const auto header = records_.header_at(position);
      const bool likely = header && header->sequence > found_.end_sequence &&
                          header->sequence - found_.end_sequence <= skipped / record_size(0) + 1;
      if (likely && records_.verified_at(position)) {
        note(*header);
        position += record_size(header->length);
      } else {
        ++position;
      }
    }
  }

  const std::shared_ptr<JournalSegment>& segment_;
  const std::function<void(const ReplayedRecord&)>& visit_;
  SegmentReplay found_;
  RecordReader records_;
};

template <class Visit>
void for_each_verified(const JournalSegment& segment, int from, std::uint64_t end, const Visit& visit) {
  RecordReader records(segment, from, end);
  for (std::uint64_t position = kSegmentHeaderSize; position < end; position += records.record().size()) {
    const auto header = records.verified_at(position);
    if (!header) {
      throw Error(ErrorKind::kIo, fmt::format("the disk has lost writes to {} at byte {}, which were never durable",
                                              segment.path.string(), position));
    }
    visit(*header, records, position);
  }
}

}  // namespace

JournalSegment::JournalSegment(fs::path file_path, ByteView header_bytes, const Begin& begin, const Key& segment_key)
    : path(std::move(file_path)),
      index(begin.index),
      first_sequence(begin.first_sequence),
      header_(to_bytes(header_bytes)),
      key_(segment_key),
      end_before_(begin.end_before) {}

std::shared_ptr<JournalSegment> JournalSegment::make(const fs::path& directory, const Begin& begin,
                                                     const Key& device_key) {
  Bytes id(kSegmentIdSize);
  random_bytes(id);
  const SecretKey key = segment_key(device_key, id);
  ByteWriter header;
  header.put(as_bytes(kMagic)).u32(kFormat).put(id).u64(begin.index).u64(begin.first_sequence).u64(begin.end_before);
  const auto tag = gcm_seal(key, header_nonce(), {header.bytes()}, {}, {});
  header.put(tag);
  const fs::path path = directory / OpenSegments::file_name(begin.index);
  return std::shared_ptr<JournalSegment>(new JournalSegment(path, header.bytes(), begin, key));
}

std::shared_ptr<JournalSegment> JournalSegment::parse(const fs::path& path, ByteView header, const Key& device_key) {
  // A sync of any record covers the header, so a short or empty header was never synced.
  if (header.size() < kSegmentHeaderSize || is_zero(header)) return nullptr;
  ByteReader r(header, "journal segment");
  if (as_text(r.take(kMagic.size())) != kMagic) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{} is not a journal segment", path.string()));
  }
  if (const auto format = r.u32(); format != kFormat) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: journal format {} is not known to this version of isr", path.string(), format));
  }
  const SecretKey key = segment_key(device_key, r.take(kSegmentIdSize));
  Begin begin;
  begin.index = r.u64();
  begin.first_sequence = r.u64();
  begin.end_before = r.u64();
  if (!gcm_open(key, header_nonce(), {header.first(kSealedHeaderSize)}, {}, r.take(kTagSize), {})) {
    throw Error(
        ErrorKind::kCorrupt,
        fmt::format("the header of journal segment {} is damaged, or the segment is another host's", path.string()));
  }
  return std::shared_ptr<JournalSegment>(new JournalSegment(path, header, begin, key));
}

void JournalSegment::become(const JournalSegment& other) {
  header_ = other.header_;
  key_ = other.key_;
  end_before_ = other.end_before_;
}

void JournalSegment::seal_record(const RecordHeader& header, ByteView payload, MutableBytes out) const {
  encode_header(header, out.data());
  const auto tag = gcm_seal(key_, record_nonce(header.sequence), {out.first(kRecordHeaderSize)}, payload,
                            out.subspan(kRecordHeaderSize, payload.size()));
  std::copy(tag.begin(), tag.end(), out.begin() + static_cast<std::ptrdiff_t>(kRecordHeaderSize + payload.size()));
}

bool JournalSegment::open_record(ByteView record, std::uint64_t sequence, MutableBytes out) const {
  const ByteView header = record.first(kRecordHeaderSize);
  const ByteView cipher = record.subspan(kRecordHeaderSize, out.size());
  const ByteView tag = record.subspan(kRecordHeaderSize + out.size(), kTagSize);
  return gcm_open(key_, record_nonce(sequence), {header}, cipher, tag, out);
}

SegmentReplay replay_segment(const std::shared_ptr<JournalSegment>& segment, int fd,
                             const std::function<void(const ReplayedRecord&)>& visit) {
  return Replay(segment, fd, visit).run();
}

void copy_verified(const JournalSegment& segment, int from, int to, std::uint64_t end) {
  write_all_at(to, segment.first_bytes(), 0, segment.path);
  for_each_verified(segment, from, end, [&](const RecordHeader&, const RecordReader& records, std::uint64_t position) {
    write_all_at(to, records.record(), position, segment.path);
  });
}

void copy_resealed(const JournalSegment& segment, int from, const JournalSegment& as, int to, std::uint64_t end) {
  write_all_at(to, as.first_bytes(), 0, as.path);
  Bytes sealed;
  for_each_verified(segment, from, end,
                    [&](const RecordHeader& header, const RecordReader& records, std::uint64_t position) {
                      sealed.resize(records.record().size());
                      as.seal_record(header, records.payload(), sealed);
                      write_all_at(to, sealed, position, as.path);
                    });
}

}  // namespace isr
