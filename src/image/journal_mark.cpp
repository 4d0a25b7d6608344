#include "image/journal_mark.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

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

/// The key that seals the mark of the segment with this id.
SecretKey mark_key(const Key& device_key, ByteView id) {
  return hkdf_sha256(device_key.view(), id, "isr1/journal-mark");
}

}  // namespace

bool write_mark(const fs::path& directory, const Key& device_key, const JournalSegment& newest,
                std::uint64_t synced) noexcept {
  try {
    const Bytes header = ByteWriter().put(as_bytes(kMagic)).u32(kFormat).put(newest.id()).take();
    const Bytes box = seal_box(mark_key(device_key, newest.id()), header, ByteWriter().u64(synced).take());
    const fs::path path = directory / kMarkName;
    const UniqueFd file = open_file(path, O_WRONLY | O_CREAT | O_NONBLOCK);
    write_all_at(file.get(), ByteWriter().put(header).put(box).take(), 0, path);
    if (::ftruncate(file.get(), kMarkSize) != 0) throw_errno(fmt::format("cannot cut {}", path.string()), errno);
    return true;
  } catch (const std::exception& error) {
    log::debug("the journal's mark was not written: {}",
               error.what());  // a start then copies more; nothing else changes
    return false;
  }
}

Mark parse_mark(ByteView mark, const Key& device_key, std::span<const std::shared_ptr<JournalSegment>> segments) {
  if (mark.size() != kMarkSize) return {};
  ByteReader r(mark, "journal mark");
  if (as_text(r.take(kMagic.size())) != kMagic || r.u32() != kFormat) return {};
  const ByteView id = r.take(kSegmentIdSize);
  const auto is_meant = [&](const auto& segment) { return std::ranges::equal(segment->id(), id); };
  const auto newest = std::find_if(segments.begin(), segments.end(), is_meant);
  if (newest == segments.end()) return {};
  const auto synced = open_box(mark_key(device_key, id), mark.first(kHeaderSize), mark.subspan(kHeaderSize));
  if (!synced) return {};
  return {ByteReader(*synced, "journal mark").u64(), *newest};
}

Mark read_mark(const fs::path& directory, const Key& device_key,
               std::span<const std::shared_ptr<JournalSegment>> segments) noexcept {
  try {
    const auto mark = read_file_if_exists(directory / kMarkName, kMarkSize);
    return mark ? parse_mark(*mark, device_key, segments) : Mark{};
  } catch (const std::exception& error) {
    log::debug("the journal's mark cannot be read: {}", error.what());
    return {};
  }
}

}  // namespace isr
