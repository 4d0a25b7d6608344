// Replays a journal segment into an overlay. Byte 0 chooses how deep the input
// gets: 0 = the rest is a whole file, which the header's tag refuses; 1 = the rest
// is records behind a good header, which their tags refuse; 2 = the rest is a list
// of records that this target seals (kind, place, length: 12 bytes each, then the
// payload). When bit 2 is set, one byte of the file is changed afterwards.
#include <sys/mman.h>

#include <cstdlib>

#include "base/error.h"
#include "image/journal_overlay.h"
#include "image/journal_segment.h"

namespace {

using namespace isr;

constexpr std::uint64_t kFirstSequence = 5;

Key device_key() {
  Key key;
  key.value.fill(9);
  return key;
}

Bytes sealed_header() {
  const Bytes id(32, 3);
  const Key key = hkdf_sha256(device_key().view(), id, "isr1/journal");
  const Bytes head =
      ByteWriter().put(as_bytes("ISRJ")).u32(3).put(id).u64(1).u64(kFirstSequence).u64(kFirstSequence).take();
  Nonce nonce;
  nonce.value.fill(0xff);
  return ByteWriter().put(head).put(gcm_seal(key, nonce, {head}, {}, {})).take();
}

UniqueFd file_with(ByteView bytes) {
  UniqueFd fd(::memfd_create("journal", MFD_CLOEXEC));
  write_all_at(fd.get(), bytes, 0, "memory");
  return fd;
}

Bytes sealed_records(ByteView input) {
  const auto segment = JournalSegment::parse("memory", sealed_header(), device_key());
  Bytes file = sealed_header();
  std::uint64_t sequence = kFirstSequence;
  while (input.size() >= 12) {
    ByteReader r(input, "input");
    RecordHeader header;
    header.kind = static_cast<RecordKind>(1 + r.u8() % kLastRecordKind);
    header.image = r.u8() % 2;
    const std::size_t wanted = r.u16();
    header.offset = r.u64();
    header.sequence = sequence;
    header.synced = sequence - 1;
    header.moment = sequence;
    const ByteView payload = r.rest().first(std::min(wanted, r.rest().size()));
    header.length = static_cast<std::uint32_t>(payload.size());
    Bytes record(record_size(payload.size()));
    segment->seal_record(header, payload, record);
    file.insert(file.end(), record.begin(), record.end());
    ++sequence;
    input = r.rest().subspan(payload.size());
  }
  return file;
}

Bytes file_from(std::uint8_t mode, ByteView input) {
  if (mode % 4 == 0) return to_bytes(input);
  if (mode % 4 == 1) return ByteWriter().put(sealed_header()).put(input).take();
  Bytes file = sealed_records(input);
  if ((mode & 4U) != 0) file[(mode * 977U) % file.size()] ^= 0x10;
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  try {
    const Bytes file = file_from(data[0], {data + 1, size - 1});
    const ByteView header = ByteView(file).first(std::min(file.size(), kSegmentHeaderSize));
    const auto segment = JournalSegment::parse("memory", header, device_key());
    if (!segment) return 0;
    JournalOverlay overlay(nullptr, 0);
    std::size_t records = 0;
    const SegmentReplay found = replay_segment(segment, file_with(file).get(), [&](const ReplayedRecord& record) {
      ++records;
      if (record.image == 0) overlay.replay(record);
    });
    if (found.end > found.file_size || found.end_sequence != segment->first_sequence + records) std::abort();
    for (const std::uint64_t chunk : overlay.dirty_chunks()) {
      if (chunk >= chunk_count(kMaxImageSize)) std::abort();
      std::uint64_t end = chunk * kChunkSize;
      for (const PieceAt& piece : overlay.pieces_of(chunk)) {  // ascending, without overlaps, inside the chunk
        if (piece.offset < end || piece.piece.length == 0) std::abort();
        end = piece.offset + piece.piece.length;
      }
      if (end > (chunk + 1) * kChunkSize) std::abort();
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt && error.kind() != ErrorKind::kUnsupported) throw;
  }
  return 0;
}
