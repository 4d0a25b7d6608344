#include "image/journal_mark.h"

#include <fcntl.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace isr {
namespace {

constexpr const char* kMarkName = "synced";
constexpr std::string_view kMagic = "ISRM";
constexpr std::uint32_t kFormat = 1;
constexpr std::size_t kHeaderSize = kMagic.size() + 4 + kSegmentIdSize;
constexpr std::size_t kMarkSize = kHeaderSize + kBoxOverhead + 8;

/// Of the segment with this id.
SecretKey mark_key(const Key& device_key, ByteView id) {
  return hkdf_sha256(device_key.view(), id, "isr1/journal-mark");
}

}  // namespace

void write_mark(const fs::path& directory, const Key& device_key, const JournalSegment& newest,
                std::uint64_t synced) noexcept {
  try {
    const Bytes header = ByteWriter().put(as_bytes(kMagic)).u32(kFormat).put(newest.id()).take();
    const Bytes box = seal_box(mark_key(device_key, newest.id()), header, ByteWriter().u64(synced).take());
    const fs::path path = directory / kMarkName;
    write_all_at(open_file(path, O_WRONLY | O_CREAT).get(), ByteWriter().put(header).put(box).take(), 0, path);
  } catch (const std::exception& error) {
    log::debug("no mark in the journal: {}", error.what());  // a start copies more, and nothing else changes
  }
}

std::uint64_t read_mark(const fs::path& directory, const Key& device_key,
                        std::span<const std::shared_ptr<JournalSegment>> segments) noexcept {
  try {
    const auto bytes = read_file_if_exists(directory / kMarkName, kMarkSize);
    if (!bytes || bytes->size() != kMarkSize) return 0;
    ByteReader r(*bytes, "journal mark");
    if (as_text(r.take(kMagic.size())) != kMagic || r.u32() != kFormat) return 0;
    const ByteView id = r.take(kSegmentIdSize);
    const auto is_meant = [&](const auto& segment) { return std::ranges::equal(segment->id(), id); };
    if (std::none_of(segments.begin(), segments.end(), is_meant)) return 0;
    const ByteView header = ByteView(*bytes).first(kHeaderSize);
    const auto synced = open_box(mark_key(device_key, id), header, ByteView(*bytes).subspan(kHeaderSize));
    return synced ? ByteReader(*synced, "journal mark").u64() : 0;
  } catch (const std::exception& error) {
    log::debug("the journal's mark cannot be read: {}", error.what());
    return 0;
  }
}

}  // namespace isr
