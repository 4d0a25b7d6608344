#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/file.h"
#include "image/journal_segment.h"

/// A journal's mark: the file `synced` beside its segments, which says up to which record all of them is durable;
/// docs/formats/journal.md. Each record says so, too, but only of what was durable when it was written: behind a large
/// sync at which the writer was killed, no record does, and the next start would copy all that it covered.
///
/// The mark itself is never synced. A power cut may take it or leave an older one, which says less but nothing wrong.
namespace isr {

/// Records up to `synced` are durable, and so is `newest`, the last segment that has one of them: once it is collected
/// its journal may give numbers anew, and the mark counts as none. False: that failed and was logged.
bool write_mark(const fs::path& directory, const Key& device_key, const JournalSegment& newest,
                std::uint64_t synced) noexcept;

struct Mark {
  std::uint64_t synced = 0;                        ///< the newest record that it calls durable; 0: none
  std::shared_ptr<const JournalSegment> newest{};  ///< the last segment that has one of these records
};
/// Without a segment: it is not a mark of a journal with these segments.
Mark parse_mark(ByteView mark, const Key& device_key, std::span<const std::shared_ptr<JournalSegment>> segments);
/// The same of the directory's mark; without a segment also when that cannot be read.
Mark read_mark(const fs::path& directory, const Key& device_key,
               std::span<const std::shared_ptr<JournalSegment>> segments) noexcept;

}  // namespace isr
