#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/file.h"
#include "image/journal_segment.h"

/// A journal's mark: the file `synced` beside its segments. It says up to which record all records are durable;
/// docs/formats/journal.md. Each record says that, too, but only for the records that were durable when it was written.
/// When the writer is killed during or after a large sync, no record says that the sync succeeded, and without the mark
/// the next start would copy everything that it covered.
///
/// The mark itself is never synced. A power cut may remove it or leave an older one, which covers less but is not
/// wrong.
namespace isr {

/// Writes a mark: records up to `synced` are durable, and so is `newest`, the last segment that has one of them. Once
/// `newest` is collected the journal may reuse its numbers, and the mark is ignored. Returns false when writing failed,
/// which is logged.
bool write_mark(const fs::path& directory, const Key& device_key, const JournalSegment& newest,
                std::uint64_t synced) noexcept;

struct Mark {
  std::uint64_t synced = 0;                        ///< the newest durable record according to the mark; 0: none
  std::shared_ptr<const JournalSegment> newest{};  ///< the last segment that has one of these records
};
/// The result has no segment when this is not a mark of a journal with these segments.
Mark parse_mark(ByteView mark, const Key& device_key, std::span<const std::shared_ptr<JournalSegment>> segments);
/// Parses the directory's mark. The result has no segment also when the mark cannot be read.
Mark read_mark(const fs::path& directory, const Key& device_key,
               std::span<const std::shared_ptr<JournalSegment>> segments) noexcept;

}  // namespace isr
